/* ring.c - what a push costs, and what a stamp costs.
 *
 * The same producer pushes records of 256 bytes into our ring (file on tmpfs, variable-length records) and into the
 * queue that everybody writes first (1024 slots of 4 KiB, a shared head and tail). The same consumer policy for both:
 * take what is there, touch every record, give it back, nap 50 us when there is nothing. Rounds alternate; each line is
 * one round: name, ns a push (wall of the producer), pushes that found the queue full. `bell`: our ring, with a look at
 * the sleeper's bell after each push (the recorder looks once a received chunk). Second part: ns of one CPU-tick stamp
 * and of one clock_gettime(CLOCK_REALTIME).
 *
 * `line`: ns that one cache line needs from one thread to the other and back. It says how near the two CPUs are just
 * now: on a shared machine that changes, and a push changes with it. Only runs with like lines can be compared.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "ring_internal.h"

enum { RECORD_BYTES = 256, SLOTS = 1024, SLOT_BYTES = 4096, NAP_NS = 50 * 1000 };

typedef struct slots {
    _Atomic uint64_t head;
    _Atomic uint64_t tail;
    uint8_t slot[SLOTS][SLOT_BYTES];
} slots;

static _Atomic bool stopping;
static _Atomic uint64_t seen;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void nap(void)
{
    const struct timespec pause = {0, NAP_NS};
    nanosleep(&pause, NULL);
}

static void *consume_ring(void *argument)
{
    ssmd_ring *ring = argument;
    uint64_t sum = 0;
    for (;;) {
        const uint8_t *at;
        uint64_t n;
        if (ssmd_ring_peek(ring, &at, &n) == SSMD_OK) {
            for (uint64_t i = 0; i < n; i += RECORD_BYTES) {
                sum += at[i];
            }
            ssmd_ring_release(ring, n);
        } else if (atomic_load(&stopping)) {
            break;
        } else {
            nap();
        }
    }
    atomic_fetch_add(&seen, sum);
    return NULL;
}

static void *consume_slots(void *argument)
{
    slots *queue = argument;
    uint64_t sum = 0;
    for (;;) {
        const uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
        const uint64_t head = atomic_load_explicit(&queue->head, memory_order_acquire);
        if (head != tail) {
            for (uint64_t i = tail; i != head; i++) {
                sum += queue->slot[i % SLOTS][8];
                atomic_store_explicit(&queue->tail, i + 1, memory_order_release);
            }
        } else if (atomic_load(&stopping)) {
            break;
        } else {
            nap();
        }
    }
    atomic_fetch_add(&seen, sum);
    return NULL;
}

static double ring_round(const char *path, const uint8_t *record, uint64_t count, bool bell, uint64_t *full)
{
    ssmd_ring *producer;
    ssmd_ring *consumer;
    ssmd_error error;
    unlink(path);
    if (ssmd_ring_open(path, 4u << 20, SSMD_PRODUCER, &producer, &error) != SSMD_OK ||
        ssmd_ring_open(path, 0, SSMD_CONSUMER, &consumer, &error) != SSMD_OK) {
        fprintf(stderr, "%s: %s\n", path, error.what);
        exit(1);
    }
    pthread_t thread;
    atomic_store(&stopping, false);
    pthread_create(&thread, NULL, consume_ring, consumer);
    const uint64_t begin = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *at;
        while (ssmd_ring_claim(producer, RECORD_BYTES, &at) != SSMD_OK) {
            ++*full;
            nap();
        }
        memcpy(at, record, RECORD_BYTES);
        ssmd_ring_advance(producer, RECORD_BYTES);
        ssmd_ring_publish(producer);
        if (bell) {
            ssmd_ring_wake_inline(producer, i);
        }
    }
    const double ns = (double)(now_ns() - begin) / (double)count;
    atomic_store(&stopping, true);
    pthread_join(thread, NULL);
    ssmd_ring_close(producer);
    ssmd_ring_close(consumer);
    unlink(path);
    return ns;
}

static double slots_round(slots *queue, const uint8_t *record, uint64_t count, uint64_t *full)
{
    pthread_t thread;
    atomic_store(&queue->head, 0);
    atomic_store(&queue->tail, 0);
    atomic_store(&stopping, false);
    pthread_create(&thread, NULL, consume_slots, queue);
    const uint64_t begin = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
        while (head - atomic_load_explicit(&queue->tail, memory_order_acquire) == SLOTS) {
            ++*full;
            nap();
        }
        uint8_t *at = queue->slot[head % SLOTS];
        const uint64_t size = RECORD_BYTES;
        memcpy(at, &size, sizeof size);
        memcpy(at + 8, record, RECORD_BYTES);
        atomic_store_explicit(&queue->head, head + 1, memory_order_release);
    }
    const double ns = (double)(now_ns() - begin) / (double)count;
    atomic_store(&stopping, true);
    pthread_join(thread, NULL);
    return ns;
}

enum { TURNS = 20 * 1000 };
static _Alignas(SSMD_LINE) _Atomic int turn;

static void await_turn(int wanted)
{
    for (int looks = 1; atomic_load_explicit(&turn, memory_order_acquire) != wanted; looks++) {
        if (looks % 10000 == 0) {
            sched_yield(); /* the other one may want this very CPU */
        }
    }
}

static void *answer(void *argument)
{
    for (int i = 0; i < TURNS; i++) {
        await_turn(2 * i + 1);
        atomic_store_explicit(&turn, 2 * i + 2, memory_order_release);
    }
    return argument;
}

static double line_round(void)
{
    pthread_t thread;
    atomic_store(&turn, 0);
    pthread_create(&thread, NULL, answer, NULL);
    const uint64_t begin = now_ns();
    for (int i = 0; i < TURNS; i++) {
        atomic_store_explicit(&turn, 2 * i + 1, memory_order_release);
        await_turn(2 * i + 2);
    }
    const double ns = (double)(now_ns() - begin) / TURNS;
    pthread_join(thread, NULL);
    return ns;
}

static void stamps(void)
{
    enum { COUNT = 5 * 1000 * 1000 };
    uint64_t sum = 0;
    uint64_t begin = now_ns();
    for (int i = 0; i < COUNT; i++) {
        sum += ssmd_clock_ticks();
    }
    printf("tick %.2f 0\n", (double)(now_ns() - begin) / COUNT);
    begin = now_ns();
    for (int i = 0; i < COUNT; i++) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        sum += (uint64_t)t.tv_nsec;
    }
    printf("clock_gettime %.2f 0\n", (double)(now_ns() - begin) / COUNT);
    atomic_fetch_add(&seen, sum);
}

int main(int argc, char **argv)
{
    const int rounds = argc > 1 ? atoi(argv[1]) : 5;
    const uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 5u * 1000 * 1000;
    char path[64];
    uint8_t record[RECORD_BYTES];
    slots *queue = aligned_alloc(SLOT_BYTES, sizeof(slots) + (SLOT_BYTES - sizeof(slots) % SLOT_BYTES) % SLOT_BYTES);
    if (queue == NULL) {
        return 1;
    }
    memset(queue, 1, sizeof *queue);
    memset(record, 7, sizeof record);
    snprintf(path, sizeof path, "/dev/shm/ssmd-bench-%d.ring", (int)getpid());
    for (int round = 0; round < rounds; round++) {
        uint64_t full = 0;
        printf("line %.2f 0\n", line_round());
        printf("ring %.2f ", ring_round(path, record, count, false, &full));
        printf("%llu\n", (unsigned long long)full);
        full = 0;
        printf("bell %.2f ", ring_round(path, record, count, true, &full));
        printf("%llu\n", (unsigned long long)full);
        full = 0;
        printf("slots %.2f ", slots_round(queue, record, count, &full));
        printf("%llu\n", (unsigned long long)full);
        stamps();
    }
    free(queue);
    return atomic_load(&seen) == 0;
}
