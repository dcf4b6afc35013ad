/* clock.h - CPU ticks, and what they are in UTC.
 *
 * A stamp must not cost more than what it stamps, so it is the CPU's own counter (9 ns) and one
 * multiplication, not a clock_gettime (23 ns). An *anchor* says: this tick was that UTC instant, and
 * a tick lasts so long. The system clock stays the truth: anchors are taken from it anew every second, so
 * that a stamp is off by the width of one reading and a second's drift, well under a microsecond.
 *
 * Which counter: x86 TSC if the CPU calls it invariant (CPUID 0x80000007, EDX bit 8) AND the kernel trusts
 * it enough to keep time by it (clocksource "tsc"); aarch64 CNTVCT_EL0; else CLOCK_MONOTONIC, in ns. The
 * choice is made once, when the library is loaded.
 *
 * Not for: ordering events (stamps of one process step back when UTC does), durations across a step of UTC
 * (use the ticks and the rate).
 */
#ifndef SSMD_CLOCK_H
#define SSMD_CLOCK_H

#include "ssmd.h"

#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Ordinals of ClockAnchor.Source in schemas/market_data.capnp. */
typedef enum ssmd_clock_source {
    SSMD_CLOCK_TSC = 0,
    SSMD_CLOCK_CNTVCT = 1,
    SSMD_CLOCK_MONOTONIC = 2
} ssmd_clock_source;

typedef struct ssmd_clock_anchor {
    uint64_t ticks;           /* this tick ... */
    int64_t wall_ns;          /* ... was this UTC instant */
    uint64_t ns_per_tick_q32; /* nanoseconds per tick x 2^32 */
    uint64_t uncertainty_ns;  /* width of the reading: wall_ns is right to half of it */
    uint32_t source;          /* ssmd_clock_source */
    uint32_t reserved;
} ssmd_clock_anchor;

/* The counter in use. Set before main, then only read. */
SSMD_API extern int ssmd_clock_source_in_use;

static inline uint64_t ssmd_clock_ticks(void)
{
#if defined(__x86_64__)
    if (__builtin_expect(ssmd_clock_source_in_use == SSMD_CLOCK_TSC, 1))
        return __rdtsc();
#elif defined(__aarch64__)
    if (__builtin_expect(ssmd_clock_source_in_use == SSMD_CLOCK_CNTVCT, 1)) {
        uint64_t ticks;
        __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
        return ticks;
    }
#endif
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* UTC of `ticks` by this anchor; ticks before the anchor are fine. Pure. */
static inline int64_t ssmd_clock_anchor_ns(const ssmd_clock_anchor *anchor, uint64_t ticks)
{
    __extension__ typedef __int128 wide;
    wide elapsed = (wide)(int64_t)(ticks - anchor->ticks) * (wide)anchor->ns_per_tick_q32;
    return anchor->wall_ns + (int64_t)(elapsed >> 32);
}

/* Takes a fresh anchor and makes it the process's own, the one that ticks_to_ns and stamp use. The first call
 * of a process measures the rate and takes 10 ms; later ones take about a microsecond and refine the rate. */
SSMD_API void ssmd_clock_anchor_read(ssmd_clock_anchor *anchor);

/* The process's own anchor as it is now, without a new reading (the very first call reads). */
SSMD_API void ssmd_clock_anchor_current(ssmd_clock_anchor *anchor);

/* UTC of `ticks` by the process's own anchor. Any thread, no lock. */
SSMD_API int64_t ssmd_clock_ticks_to_ns(uint64_t ticks);

/* Now: the ticks, and their UTC as result. Takes a fresh anchor when the last one is over a second old. */
SSMD_API int64_t ssmd_clock_stamp(uint64_t *ticks);

/* ssmd_clock_ticks for those who cannot use an inline function. */
SSMD_API uint64_t ssmd_clock_now(void);

/* System clocks in ns, the plain way. */
SSMD_API int64_t ssmd_clock_wall_ns(void);
SSMD_API int64_t ssmd_clock_monotonic_ns(void);

#ifdef __cplusplus
}
#endif
#endif
