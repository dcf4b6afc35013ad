/* ring_internal.h - the layout of the ring and its fast paths, for code of this library that writes or reads per
 * record. ring.h says what the functions promise; the picture of the header stands there too.
 *
 * A ring is the header in the shared mapping, one writer per 128-byte line (two 64-byte lines: the prefetcher of
 * x86 fetches them in pairs; the bell alone has two), and this process's own struct, in which each role keeps its
 * private positions on a line of its own. The producer caches the consumer's tail and looks at the shared line only
 * when the cached one leaves no room, so that in the common case neither side touches the other's line.
 */
#ifndef SSMD_RING_INTERNAL_H
#define SSMD_RING_INTERNAL_H

#include "ring.h"

#include <stdatomic.h>
#include <string.h>

#define SSMD_RING_MAGIC UINT64_C(0x676e6972646d7373) /* the bytes "ssmdring" */
#define SSMD_RING_HEADER_BYTES (64u * 1024u)
#define SSMD_LINE 128

enum { SSMD_COMMIT_WORDS = 11 };

typedef struct ssmd_ring_owner_line {
    _Atomic uint64_t position; /* head or tail */
    _Atomic int64_t pid;
    _Atomic uint64_t started; /* start time of that process, in clock ticks since boot (proc(5), stat, field 22) */
    uint64_t unused[13];
} ssmd_ring_owner_line;

typedef struct ssmd_ring_commit_slot {
    _Atomic uint64_t begin; /* generation, written first ... */
    _Atomic uint64_t words[SSMD_COMMIT_WORDS];
    _Atomic uint64_t end; /* ... and last: whole if both are equal and not 0 */
    uint64_t unused[3];
} ssmd_ring_commit_slot;

typedef struct ssmd_ring_header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint64_t capacity;
    int64_t created_ns;
    char boot_id[40];
    uint64_t unused[7];

    ssmd_ring_owner_line producer;
    ssmd_ring_owner_line consumer;
    ssmd_ring_commit_slot commit[2];

    struct {
        _Atomic uint64_t sequence; /* 0 = never stored, odd = being written */
        _Atomic uint64_t words[5];
        uint64_t unused[10];
    } clock;

    struct {
        _Atomic uint32_t state;
        _Atomic int32_t status;
        _Atomic int32_t sys_errno;
        _Atomic uint32_t what;
        _Atomic int64_t error_since_ns, heartbeat_ns, pid;
        _Atomic uint64_t written_bytes, written_records, segments_sealed, syncs, longest_sync_ns, errors;
        _Atomic uint64_t losses, lost_first, lost_last;
        _Atomic int64_t lost_since_ns;
        uint64_t unused[1];
    } status;

    struct {                     /* both write here: a consumer that sleeps is woken by it */
        _Atomic uint32_t asleep; /* 1 = it sleeps, or is about to; the futex word */
        uint32_t unused0;
        _Atomic uint64_t due_ticks; /* not to be woken before this, unless much is waiting */
        uint64_t unused[14];
    } bell;
} ssmd_ring_header;

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "positions are shared between processes: no hidden locks");
_Static_assert(offsetof(ssmd_ring_header, producer) == 128, "each writer has its own line");
_Static_assert(offsetof(ssmd_ring_header, consumer) == 256, "each writer has its own line");
_Static_assert(offsetof(ssmd_ring_header, commit) == 384, "each writer has its own line");
_Static_assert(offsetof(ssmd_ring_header, clock) == 640, "each writer has its own line");
_Static_assert(offsetof(ssmd_ring_header, status) == 768, "each writer has its own line");
_Static_assert(offsetof(ssmd_ring_header, bell) == 896, "each writer has its own line");
_Static_assert(sizeof(ssmd_ring_header) == 1024, "layout of version 1: files made before the bell have zeros there");
_Static_assert(sizeof(ssmd_commit) == 8 * (SSMD_COMMIT_WORDS + 1), "a slot holds all but the generation");

struct ssmd_ring {
    /* read only after open */
    ssmd_ring_header *header;
    uint8_t *data;
    uint64_t mask;
    uint64_t capacity;
    uint64_t limit;
    uint64_t wake_bytes; /* so much waiting wakes the consumer */
    int role;
    int fd;
    _Alignas(SSMD_LINE) struct {
        uint64_t next;      /* after what was advanced over */
        uint64_t published; /* own copy of the shared head */
        uint64_t end;       /* cached tail + capacity: positions below are free */
    } producer;
    _Alignas(SSMD_LINE) struct {
        uint64_t tail; /* own copy of the shared tail */
    } consumer;
};

/* The consumer's tail seen anew. Acquire, partner: the release store in ssmd_ring_release_inline. The bytes before
 * the tail are not overwritten before the consumer has done reading them. */
static inline void ssmd_ring_refresh_room(ssmd_ring *ring)
{
    ring->producer.end = atomic_load_explicit(&ring->header->consumer.position, memory_order_acquire) + ring->capacity;
}

static inline int ssmd_ring_claim_inline(ssmd_ring *ring, uint64_t n, uint8_t **at)
{
    if (__builtin_expect(n > ring->limit, 0))
        return (ring->role & SSMD_PRODUCER) != 0 ? SSMD_TOO_LARGE : SSMD_INVALID;
    if (__builtin_expect(n > ring->producer.end - ring->producer.next, 0)) {
        if ((ring->role & SSMD_PRODUCER) == 0)
            return SSMD_INVALID;
        ssmd_ring_refresh_room(ring);
        if (n > ring->producer.end - ring->producer.next)
            return SSMD_FULL;
    }
    *at = ring->data + (ring->producer.next & ring->mask);
    return SSMD_OK;
}

static inline void ssmd_ring_advance_inline(ssmd_ring *ring, uint64_t n)
{
    ring->producer.next += n;
}

static inline void ssmd_ring_publish_inline(ssmd_ring *ring)
{
    if (ring->producer.next == ring->producer.published)
        return;
    ring->producer.published = ring->producer.next;
#ifdef SSMD_PLANT_WEAK_STORE /* a fault on purpose: `make tsan-planted` must see it */
    atomic_store_explicit(&ring->header->producer.position, ring->producer.next, memory_order_relaxed);
#else
    /* Release, partner: the acquire load in ssmd_ring_peek_inline. The record's bytes are there before the head
     * says so. */
    atomic_store_explicit(&ring->header->producer.position, ring->producer.next, memory_order_release);
#endif
}

/* After a publish at `now_ticks`: wakes the consumer if it sleeps and is due, or if much is waiting for it. No system
 * call otherwise; a consumer that is at work is never called.
 *
 * Acquire and release, partner: the exchange in ssmd_ring_sleep. Both change the same word, so one comes first: if the
 * consumer's does, it is seen here that it sleeps; if this one does, the consumer sees the head published before. */
static inline void ssmd_ring_wake_inline(ssmd_ring *ring, uint64_t now_ticks)
{
    ssmd_ring_header *header = ring->header;
    if (atomic_fetch_or_explicit(&header->bell.asleep, 0, memory_order_acq_rel) == 0)
        return;
    if (now_ticks >= atomic_load_explicit(&header->bell.due_ticks, memory_order_relaxed) ||
        ring->producer.published - atomic_load_explicit(&header->consumer.position, memory_order_relaxed) >=
            ring->wake_bytes)
        ssmd_ring_wake(ring);
}

/* No cached head: a consumer that takes all there is looks at the shared line once a batch, not once a record. */
static inline int ssmd_ring_peek_inline(ssmd_ring *ring, const uint8_t **at, uint64_t *n)
{
    /* Acquire, partner: the release store in ssmd_ring_publish_inline. No byte is read before the head that covers
     * it. */
    uint64_t head = atomic_load_explicit(&ring->header->producer.position, memory_order_acquire);
    *n = head - ring->consumer.tail;
    *at = ring->data + (ring->consumer.tail & ring->mask);
    return *n == 0 ? SSMD_EMPTY : SSMD_OK;
}

static inline void ssmd_ring_release_inline(ssmd_ring *ring, uint64_t n)
{
    ring->consumer.tail += n;
    /* Release, partner: the acquire load in ssmd_ring_refresh_room. Reading the bytes is over before they are
     * given back. */
    atomic_store_explicit(&ring->header->consumer.position, ring->consumer.tail, memory_order_release);
}

/* ---- records, as far as ring and flusher look into them ------------------------------------- */

static inline uint16_t ssmd_load_u16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static inline uint32_t ssmd_load_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static inline uint64_t ssmd_load_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

/* Bytes of the record at `at` of which n bytes can be read; 0 = no whole record stands there. */
static inline uint64_t ssmd_record_bytes(const uint8_t *at, uint64_t n)
{
    if (n < SSMD_RECORD_HEADER_BYTES || ssmd_load_u32(at) != 0)
        return 0;
    uint64_t bytes = 8 + 8 * (uint64_t)ssmd_load_u32(at + 4);
    return bytes < SSMD_RECORD_HEADER_BYTES || bytes > n ? 0 : bytes;
}

/* Does this record say that a run stopped as asked (ConnectionEvent `stopped`)? */
bool ssmd_record_is_stopped(const uint8_t *record, uint64_t bytes);

#endif
