/* clock.c - choice of the counter, its rate, and the process's own anchor.
 *
 * A reading brackets the system clock between two ticks and takes the middle:
 *
 *        t0 ---- clock_gettime ---- t1        ticks = (t0 + t1) / 2, width = t1 - t0
 *
 * The narrowest of several readings counts: an interrupt in between only makes one wide.
 *
 * The rate is (monotonic ns) / (ticks) over a window of 32 to 64 s (shorter at the start of a process, 10 ms at
 * least): long enough that the width of two readings is 2e-9 of it, short enough to follow NTP's slewing. It is
 * measured against CLOCK_MONOTONIC, which is slewed like UTC but never stepped.
 *
 * The process's anchor is read by any thread without a lock: a sequence that is odd while the words change.
 * The words are stored with release and loaded with acquire instead of fences, which TSan cannot follow; on x86
 * that is the same code.
 */
#include "clock.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define READINGS 8
#define FIRST_WINDOW_NS 10000000
#define WINDOW_NS 32000000000
#define REFRESH_NS 1000000000
#define ONE_Q32 (UINT64_C(1) << 32)

int ssmd_clock_source_in_use = SSMD_CLOCK_MONOTONIC;

static int64_t clock_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t ssmd_clock_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

int64_t ssmd_clock_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t ssmd_clock_now(void)
{
    return ssmd_clock_ticks();
}

/* ---- choice ------------------------------------------------------------------------------- */

#if defined(__x86_64__)
static bool tsc_is_invariant(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(0x80000007u, &a, &b, &c, &d) == 1 && (d & (1u << 8)) != 0;
}

/* The kernel watches the TSCs of all cores against another clock and drops "tsc" when they disagree. */
static bool kernel_keeps_time_by_tsc(void)
{
    char name[8] = "";
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, name, sizeof(name) - 1);
    close(fd);
    return n >= 4 && memcmp(name, "tsc\n", 4) == 0;
}
#endif

__attribute__((constructor)) static void choose_source(void)
{
#if defined(__x86_64__)
    if (tsc_is_invariant() && kernel_keeps_time_by_tsc())
        ssmd_clock_source_in_use = SSMD_CLOCK_TSC;
#elif defined(__aarch64__)
    ssmd_clock_source_in_use = SSMD_CLOCK_CNTVCT;
#endif
}

/* ---- reading ------------------------------------------------------------------------------ */

typedef struct reading {
    uint64_t ticks;
    int64_t ns;
    uint64_t width; /* ticks */
} reading;

/* Ticks that stay in their place: rdtsc alone may run before the instructions ahead of it have ended. */
static uint64_t ticks_in_order(void)
{
#if defined(__x86_64__)
    _mm_lfence();
    uint64_t ticks = ssmd_clock_ticks();
    _mm_lfence();
    return ticks;
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
    return ssmd_clock_ticks();
#else
    return ssmd_clock_ticks();
#endif
}

static reading read_clock(clockid_t id)
{
    reading best = {0, 0, UINT64_MAX};
    for (int i = 0; i < READINGS; i++) {
        uint64_t before = ticks_in_order();
        int64_t ns = clock_ns(id);
        uint64_t width = ticks_in_order() - before;
        if (width < best.width)
            best = (reading){before + width / 2, ns, width};
    }
    return best;
}

/* ---- rate --------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows, and the writing of `shared` */
static bool measured;
static reading window_start; /* the rate is measured from here ... */
static reading window_next;  /* ... and later on from here */

static uint64_t rate_between(const reading *a, const reading *b)
{
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)(((wide)(uint64_t)(b->ns - a->ns) << 32) / (b->ticks - a->ticks));
}

static uint64_t measure_rate(void)
{
    if (ssmd_clock_source_in_use == SSMD_CLOCK_MONOTONIC)
        return ONE_Q32; /* the counter is that clock */
    if (!measured) {
        window_start = window_next = read_clock(CLOCK_MONOTONIC);
        nanosleep(&(struct timespec){0, FIRST_WINDOW_NS}, NULL);
        measured = true;
    }
    reading now = read_clock(CLOCK_MONOTONIC);
    while (now.ns - window_start.ns < FIRST_WINDOW_NS / 2) /* a signal cut the sleep short */
        now = read_clock(CLOCK_MONOTONIC);
    uint64_t rate = rate_between(&window_start, &now);
    if (now.ns - window_next.ns > WINDOW_NS) {
        window_start = window_next;
        window_next = now;
    }
    return rate;
}

/* ---- the process's anchor ----------------------------------------------------------------- */

static struct {
    _Atomic uint64_t sequence; /* 0 = no anchor yet, odd = being written */
    _Atomic uint64_t ticks;
    _Atomic int64_t wall_ns;
    _Atomic uint64_t ns_per_tick_q32;
    _Atomic uint64_t uncertainty_ns;
} shared;

static void share(const ssmd_clock_anchor *anchor)
{
    uint64_t sequence = atomic_load_explicit(&shared.sequence, memory_order_relaxed);
    atomic_store_explicit(&shared.sequence, sequence + 1, memory_order_relaxed);
    /* Release, each: no word may become visible before the odd sequence above. Partner: load_shared. */
    atomic_store_explicit(&shared.ticks, anchor->ticks, memory_order_release);
    atomic_store_explicit(&shared.wall_ns, anchor->wall_ns, memory_order_release);
    atomic_store_explicit(&shared.ns_per_tick_q32, anchor->ns_per_tick_q32, memory_order_release);
    atomic_store_explicit(&shared.uncertainty_ns, anchor->uncertainty_ns, memory_order_release);
    /* Release: the even sequence is not seen before the words. Partner: the first load in load_shared. */
    atomic_store_explicit(&shared.sequence, sequence + 2, memory_order_release);
}

static bool load_shared(ssmd_clock_anchor *anchor)
{
    for (;;) {
        uint64_t before = atomic_load_explicit(&shared.sequence, memory_order_acquire);
        if (before == 0)
            return false;
        /* Acquire, each: whoever sees a new word sees the odd sequence in the load below. Partner: share. */
        anchor->ticks = atomic_load_explicit(&shared.ticks, memory_order_acquire);
        anchor->wall_ns = atomic_load_explicit(&shared.wall_ns, memory_order_acquire);
        anchor->ns_per_tick_q32 = atomic_load_explicit(&shared.ns_per_tick_q32, memory_order_acquire);
        anchor->uncertainty_ns = atomic_load_explicit(&shared.uncertainty_ns, memory_order_acquire);
        if ((before & 1) == 0 && atomic_load_explicit(&shared.sequence, memory_order_relaxed) == before) {
            anchor->source = (uint32_t)ssmd_clock_source_in_use;
            anchor->reserved = 0;
            return true;
        }
    }
}

static void anchor_take(ssmd_clock_anchor *anchor) /* with the lock held */
{
    uint64_t rate = measure_rate();
    reading wall = read_clock(CLOCK_REALTIME);
    anchor->ticks = wall.ticks;
    anchor->wall_ns = wall.ns;
    anchor->ns_per_tick_q32 = rate;
    __extension__ typedef unsigned __int128 wide;
    anchor->uncertainty_ns = (uint64_t)((wide)wall.width * rate >> 32);
    anchor->source = (uint32_t)ssmd_clock_source_in_use;
    anchor->reserved = 0;
    share(anchor);
}

void ssmd_clock_anchor_read(ssmd_clock_anchor *anchor)
{
    pthread_mutex_lock(&lock);
    anchor_take(anchor);
    pthread_mutex_unlock(&lock);
}

void ssmd_clock_anchor_current(ssmd_clock_anchor *anchor)
{
    if (!load_shared(anchor))
        ssmd_clock_anchor_read(anchor);
}

int64_t ssmd_clock_ticks_to_ns(uint64_t ticks)
{
    ssmd_clock_anchor anchor;
    ssmd_clock_anchor_current(&anchor);
    return ssmd_clock_anchor_ns(&anchor, ticks);
}

int64_t ssmd_clock_stamp(uint64_t *ticks)
{
    ssmd_clock_anchor anchor;
    ssmd_clock_anchor_current(&anchor);
    uint64_t now = ssmd_clock_ticks();
    int64_t ns = ssmd_clock_anchor_ns(&anchor, now);
    if (__builtin_expect(ns - anchor.wall_ns > REFRESH_NS, 0) && pthread_mutex_trylock(&lock) == 0) {
        anchor_take(&anchor); /* whoever finds the lock taken uses the old anchor once more */
        pthread_mutex_unlock(&lock);
        ns = ssmd_clock_anchor_ns(&anchor, now);
    }
    *ticks = now;
    return ns;
}
