/* stress_ring.c - one thread writes numbered records of changing length, another reads and checks them.
 *
 *   stress_ring single    both threads on one mapping: the only form in which TSan sees the pair of accesses
 *   stress_ring double    each thread on its own opening of the file, as recorder and flusher have it
 *   stress_ring           both, one after the other
 *
 * The ring is the smallest there is, so that it is full and empty all the time and wraps every few hundred records.
 * When it is empty the reader mostly looks again, and at times sleeps on the bell: a wake-up that is lost shows as a
 * sleep that lasts to its timeout. Not a benchmark. Exit 0 = every byte arrived once and in order.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "record_maker.h"
#include "ring.h"
#include "ring_internal.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define RECORDS 100000u
#else
#define RECORDS 1000000u
#endif

enum { LARGEST = 104 + 8 * 64, SLEEP_EVERY = 16, SLEEP_S = 20 };

static uint64_t size_of(uint64_t number)
{
    return 104 + 8 * (number * 2654435761u % 65);
}

static void publish(ssmd_ring *ring)
{
    ssmd_ring_publish(ring);
    ssmd_ring_wake_inline(ring, 1);
}

static void *produce(void *argument)
{
    ssmd_ring *ring = argument;
    for (uint64_t number = 1; number <= RECORDS; number++) {
        uint8_t *at;
        while (ssmd_ring_claim(ring, size_of(number), &at) != SSMD_OK) {
            publish(ring); /* a batch that fills the ring must be seen, or nobody moves */
            sched_yield();
        }
        ssmd_ring_advance(ring, maker_record(at, number, (int64_t)number, 1, size_of(number)));
        if (number % 7 != 0)
            publish(ring);
    }
    publish(ring);
    return NULL;
}

static uint64_t check(const uint8_t *at, uint64_t n, uint64_t *number)
{
    uint8_t expected[LARGEST];
    uint64_t done = 0;
    while (done < n) {
        uint64_t bytes = maker_record(expected, *number, (int64_t)*number, 1, size_of(*number));
        if (bytes > n - done || memcmp(expected, at + done, bytes) != 0)
            return 0;
        done += bytes;
        (*number)++;
    }
    return done;
}

/* Nothing there: looks again, or sleeps. False: nobody ended the sleep. */
static bool wait_for_more(ssmd_ring *ring, unsigned turn)
{
    if (turn % SLEEP_EVERY != 0) {
        sched_yield();
        return true;
    }
    int64_t began_ns = ssmd_clock_monotonic_ns();
    ssmd_ring_sleep(ring, 0, SLEEP_S * UINT64_C(1000000000));
    return ssmd_clock_monotonic_ns() - began_ns < SLEEP_S * INT64_C(1000000000);
}

static bool consume(ssmd_ring *ring)
{
    uint64_t number = 1;
    unsigned turn = 0;
    while (number <= RECORDS) {
        const uint8_t *at;
        uint64_t n;
        if (ssmd_ring_peek(ring, &at, &n) == SSMD_EMPTY) {
            if (!wait_for_more(ring, turn++)) {
                fprintf(stderr, "nobody woke the reader for record %llu\n", (unsigned long long)number);
                return false;
            }
            continue;
        }
        if (check(at, n, &number) != n) {
            fprintf(stderr, "record %llu did not arrive as sent\n", (unsigned long long)number);
            return false;
        }
        ssmd_ring_release(ring, n);
    }
    return ssmd_ring_head(ring) == ssmd_ring_tail(ring);
}

static bool run(const char *path, bool single)
{
    ssmd_ring *writer, *reader;
    pthread_t thread;
    ssmd_error error;
    unlink(path);
    int role = single ? SSMD_PRODUCER | SSMD_CONSUMER : SSMD_PRODUCER;
    int status = ssmd_ring_open(path, SSMD_RING_MIN_BYTES, role, &writer, &error);
    reader = writer;
    if (status == SSMD_OK && !single)
        status = ssmd_ring_open(path, 0, SSMD_CONSUMER, &reader, &error);
    if (status != SSMD_OK) {
        fprintf(stderr, "%s: %s\n", error.what, ssmd_status_text(status));
        return false;
    }
    pthread_create(&thread, NULL, produce, writer);
    bool good = consume(reader);
    if (good)
        pthread_join(thread, NULL);
    if (good && !single)
        ssmd_ring_close(reader);
    if (good)
        ssmd_ring_close(writer);
    unlink(path);
    printf("%s: %s\n", single ? "single mapping" : "two mappings", good ? "ok" : "FAILED");
    return good;
}

int main(int count, char **arguments)
{
    char path[] = "/tmp/ssmd-stress-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        return 2;
    close(fd);
    bool single = count < 2 || strcmp(arguments[1], "single") == 0;
    bool both = count < 2 || strcmp(arguments[1], "double") == 0;
    bool good = (!single || run(path, true)) && (!both || run(path, false));
    return good ? 0 : 1;
}
