/* test_ring.c - the ring: positions, roles, what attaching refuses, the commit line, where a producer goes on.
 *
 * States are built, not reached by looping: `ring_at` writes the positions into the header and attaches. Numbers of the
 * header's layout are written out here (picture in ring.h).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "record_maker.h"
#include "ring.h"
#include "ring_internal.h"

enum {
    CAPACITY = 65536,
    FILE_BYTES = 65536 + CAPACITY,
    AT_VERSION = 8,
    AT_CAPACITY = 16,
    AT_BOOT_ID = 32,
    AT_HEAD = 128,
    AT_TAIL = 256,
    AT_COMMIT = 384,
    SLOT_BYTES = 128,
    BOTH = SSMD_PRODUCER | SSMD_CONSUMER
};

static char folder[64], path[96];
static ssmd_error error;

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/ssmd-ring-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/ring", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    return system(command);
}

static ssmd_ring *open_ring(int role)
{
    ssmd_ring *ring;
    assert_int_equal(ssmd_ring_open(path, CAPACITY, role, &ring, &error), SSMD_OK);
    return ring;
}

static int try_open(int role)
{
    ssmd_ring *ring;
    int status = ssmd_ring_open(path, 0, role, &ring, &error);
    ssmd_ring_close(ring);
    return status;
}

static void patch(const void *data, size_t n, off_t at)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(pwrite(fd, data, n, at), n);
    close(fd);
}

static void patch_u64(uint64_t value, off_t at)
{
    patch(&value, sizeof(value), at);
}

/* An empty ring both of whose positions are `position`. */
static ssmd_ring *ring_at(uint64_t position)
{
    ssmd_ring_close(open_ring(BOTH));
    patch_u64(position, AT_HEAD);
    patch_u64(position, AT_TAIL);
    return open_ring(BOTH);
}

static void push(ssmd_ring *ring, uint64_t number, uint64_t bytes)
{
    uint8_t record[CAPACITY];
    maker_record(record, number, (int64_t)number * 1000, 7, bytes);
    assert_int_equal(ssmd_ring_push(ring, record, bytes), SSMD_OK);
}

/* ---- positions ---------------------------------------------------------------------------- */

static void a_new_ring_is_empty_and_as_large_as_asked(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(SSMD_PRODUCER);
    assert_int_equal(ssmd_ring_capacity(ring), CAPACITY);
    assert_int_equal(ssmd_ring_limit(ring), CAPACITY / 2);
    assert_int_equal(ssmd_ring_head(ring), 0);
    assert_int_equal(ssmd_ring_tail(ring), 0);
    ssmd_ring_close(ring);
}

static void the_default_is_4_mib(void **state)
{
    (void)state;
    ssmd_ring *ring;
    assert_int_equal(ssmd_ring_open(path, 0, SSMD_PRODUCER, &ring, &error), SSMD_OK);
    assert_int_equal(ssmd_ring_capacity(ring), 4194304);
    ssmd_ring_close(ring);
}

static void what_is_not_published_is_not_seen(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t *at;
    const uint8_t *seen;
    uint64_t n;
    assert_int_equal(ssmd_ring_claim(ring, 104, &at), SSMD_OK);
    maker_record(at, 1, 1, 1, 104);
    ssmd_ring_advance(ring, 104);
    assert_int_equal(ssmd_ring_peek(ring, &seen, &n), SSMD_EMPTY);
    ssmd_ring_publish(ring);
    assert_int_equal(ssmd_ring_peek(ring, &seen, &n), SSMD_OK);
    assert_int_equal(n, 104);
    assert_memory_equal(seen, at, 104);
    ssmd_ring_close(ring);
}

static void a_batch_is_published_at_once(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t *at;
    for (uint64_t number = 1; number <= 3; number++) {
        assert_int_equal(ssmd_ring_claim(ring, 200, &at), SSMD_OK);
        ssmd_ring_advance(ring, maker_record(at, number, 1, 1, 104 + 8 * number));
        assert_int_equal(ssmd_ring_head(ring), 0);
    }
    ssmd_ring_publish(ring);
    assert_int_equal(ssmd_ring_head(ring), 112 + 120 + 128);
    ssmd_ring_close(ring);
}

static void a_claim_that_is_not_advanced_over_takes_nothing(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t *first, *second;
    assert_int_equal(ssmd_ring_claim(ring, 30000, &first), SSMD_OK);
    assert_int_equal(ssmd_ring_claim(ring, 104, &second), SSMD_OK);
    assert_ptr_equal(first, second);
    ssmd_ring_close(ring);
}

static void full_and_too_large_are_different_answers(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t *at;
    assert_int_equal(ssmd_ring_claim(ring, CAPACITY / 2 + 8, &at), SSMD_TOO_LARGE);
    push(ring, 1, CAPACITY / 2);
    push(ring, 2, CAPACITY / 2);
    assert_int_equal(ssmd_ring_claim(ring, 8, &at), SSMD_FULL);
    assert_int_equal(ssmd_ring_claim(ring, CAPACITY / 2 + 8, &at), SSMD_TOO_LARGE);
    ssmd_ring_close(ring);
}

static void a_full_ring_gives_exactly_the_room_that_was_released(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t *at;
    push(ring, 1, CAPACITY / 2);
    push(ring, 2, CAPACITY / 2);
    ssmd_ring_release(ring, 104);
    assert_int_equal(ssmd_ring_claim(ring, 112, &at), SSMD_FULL);
    assert_int_equal(ssmd_ring_claim(ring, 104, &at), SSMD_OK);
    ssmd_ring_close(ring);
}

static void what_was_advanced_over_takes_room_before_it_is_published(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t *at;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ssmd_ring_claim(ring, CAPACITY / 2, &at), SSMD_OK);
        ssmd_ring_advance(ring, CAPACITY / 2);
    }
    assert_int_equal(ssmd_ring_claim(ring, 8, &at), SSMD_FULL);
    ssmd_ring_close(ring);
}

/* The data area is mapped twice: no record is ever in two pieces, wherever it starts. */
static void a_record_over_the_end_is_contiguous(void **state)
{
    (void)state;
    const uint64_t starts[] = {CAPACITY - 8,
                               CAPACITY - 104,
                               CAPACITY - 112,
                               3 * (uint64_t)CAPACITY - 96,
                               (UINT64_C(1) << 40) - 8,
                               (UINT64_C(1) << 63) - 16};
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        ssmd_ring *ring = ring_at(starts[i]);
        uint8_t expected[256];
        const uint8_t *at;
        uint64_t n;
        maker_record(expected, 9, 9000, 7, sizeof(expected));
        push(ring, 9, sizeof(expected));
        assert_int_equal(ssmd_ring_peek(ring, &at, &n), SSMD_OK);
        assert_int_equal(n, sizeof(expected));
        assert_memory_equal(at, expected, sizeof(expected));
        ssmd_ring_release(ring, n);
        assert_int_equal(ssmd_ring_head(ring), starts[i] + sizeof(expected));
        assert_int_equal(ssmd_ring_tail(ring), starts[i] + sizeof(expected));
        ssmd_ring_close(ring);
    }
}

static void a_full_span_over_the_end_is_contiguous(void **state)
{
    (void)state;
    ssmd_ring *ring = ring_at(CAPACITY / 2 + 8);
    uint8_t expected[CAPACITY / 2];
    const uint8_t *at;
    uint64_t n;
    push(ring, 1, CAPACITY / 2);
    push(ring, 2, CAPACITY / 2);
    assert_int_equal(ssmd_ring_peek(ring, &at, &n), SSMD_OK);
    assert_int_equal(n, CAPACITY);
    maker_record(expected, 1, 1000, 7, sizeof(expected));
    assert_memory_equal(at, expected, sizeof(expected));
    maker_record(expected, 2, 2000, 7, sizeof(expected));
    assert_memory_equal(at + sizeof(expected), expected, sizeof(expected));
    ssmd_ring_close(ring);
}

static void a_push_that_is_no_multiple_of_8_is_refused(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t record[112] = {0};
    assert_int_equal(ssmd_ring_push(ring, record, 108), SSMD_INVALID);
    assert_int_equal(ssmd_ring_head(ring), 0);
    ssmd_ring_close(ring);
}

static void whoever_lacks_the_role_cannot_use_it(void **state)
{
    (void)state;
    ssmd_ring *producer = open_ring(SSMD_PRODUCER), *consumer = open_ring(SSMD_CONSUMER);
    ssmd_commit commit = {0};
    ssmd_clock_anchor anchor = {0};
    ssmd_flusher_status line = {0};
    uint8_t *room;
    const uint8_t *at;
    uint64_t n;
    assert_int_equal(ssmd_ring_claim(consumer, 104, &room), SSMD_INVALID);
    assert_int_equal(ssmd_ring_clock_store(consumer, &anchor), SSMD_INVALID);
    assert_int_equal(ssmd_ring_peek(producer, &at, &n), SSMD_INVALID);
    assert_int_equal(ssmd_ring_commit_store(producer, &commit), SSMD_INVALID);
    assert_int_equal(ssmd_ring_status_store(producer, &line), SSMD_INVALID);
    ssmd_ring_close(producer);
    ssmd_ring_close(consumer);
}

/* ---- leaving and coming back ----------------------------------------------------------------- */

static void a_new_producer_goes_on_behind_the_last_published_byte(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(SSMD_PRODUCER);
    uint8_t *at;
    push(ring, 1, 104);
    assert_int_equal(ssmd_ring_claim(ring, 104, &at), SSMD_OK);
    memset(at, 0xee, 104); /* killed in the middle of a record */
    ssmd_ring_advance(ring, 104);
    ssmd_ring_close(ring);
    ring = open_ring(BOTH);
    push(ring, 2, 112);
    const uint8_t *seen;
    uint64_t n;
    assert_int_equal(ssmd_ring_peek(ring, &seen, &n), SSMD_OK);
    assert_int_equal(n, 104 + 112);
    assert_int_equal(maker_get(seen + 104 + 16, 8), 2);
    ssmd_ring_close(ring);
}

static void a_new_consumer_gets_what_was_not_released(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    push(ring, 1, 104);
    push(ring, 2, 112);
    ssmd_ring_release(ring, 104);
    ssmd_ring_close(ring);
    ring = open_ring(SSMD_CONSUMER);
    const uint8_t *seen;
    uint64_t n;
    assert_int_equal(ssmd_ring_peek(ring, &seen, &n), SSMD_OK);
    assert_int_equal(n, 112);
    assert_int_equal(maker_get(seen + 16, 8), 2);
    ssmd_ring_close(ring);
}

/* ---- roles ---------------------------------------------------------------------------------- */

static void a_second_producer_is_told_who_is_the_first(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(SSMD_PRODUCER);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BUSY);
    assert_int_equal(error.value, getpid());
    assert_string_equal(error.what, "producer");
    ssmd_ring_close(ring);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_OK);
}

static void a_second_consumer_is_told_who_is_the_first(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(SSMD_CONSUMER);
    assert_int_equal(try_open(SSMD_CONSUMER), SSMD_BUSY);
    assert_int_equal(error.value, getpid());
    assert_string_equal(error.what, "consumer");
    ssmd_ring_close(ring);
}

static void observers_come_and_go_freely(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH), *observer = open_ring(SSMD_OBSERVER);
    assert_int_equal(try_open(SSMD_OBSERVER), SSMD_OK);
    push(ring, 1, 104);
    assert_int_equal(ssmd_ring_head(observer), 104);
    assert_int_equal(ssmd_ring_owner(observer, SSMD_PRODUCER), getpid());
    ssmd_ring_close(ring);
    assert_int_equal(ssmd_ring_owner(observer, SSMD_PRODUCER), 0);
    ssmd_ring_close(observer);
}

static void an_observer_makes_no_file(void **state)
{
    (void)state;
    assert_int_equal(try_open(SSMD_OBSERVER), SSMD_IO);
    assert_int_equal(error.sys_errno, ENOENT);
    assert_int_equal(access(path, F_OK), -1);
}

static void attach_makes_no_file(void **state)
{
    (void)state;
    ssmd_ring *ring;
    assert_int_equal(ssmd_ring_attach(path, 0, SSMD_CONSUMER, &ring, &error), SSMD_IO);
    assert_int_equal(error.sys_errno, ENOENT);
    assert_int_equal(access(path, F_OK), -1);
}

/* POSIX locks would be lost here. */
static void closing_another_descriptor_of_the_file_gives_no_role_up(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(SSMD_PRODUCER);
    close(open(path, O_RDWR));
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BUSY);
    ssmd_ring_close(ring);
}

static void a_role_ends_with_its_process_however_it_dies(void **state)
{
    (void)state;
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        ssmd_ring *ring;
        int status = ssmd_ring_open(path, CAPACITY, SSMD_PRODUCER, &ring, &error);
        byte = (char)status;
        if (write(ready[1], &byte, 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, SSMD_OK);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BUSY);
    assert_int_equal(error.value, child);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_OK);
    close(ready[0]);
    close(ready[1]);
}

/* ---- what attaching refuses ------------------------------------------------------------------- */

static void another_version_is_named(void **state)
{
    (void)state;
    uint32_t version = 77;
    ssmd_ring_close(open_ring(BOTH));
    patch(&version, sizeof(version), AT_VERSION);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BAD_VERSION);
    assert_int_equal(error.value, 77);
    assert_int_equal(error.expected, 1);
}

static void what_is_no_ring_is_left_alone(void **state)
{
    (void)state;
    const char text[] = "somebody's notes";
    char now[sizeof(text)];
    patch(text, sizeof(text), 0);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BAD_MAGIC);
    assert_int_equal(ssmd_ring_create(path, 0, NULL, &error), SSMD_BAD_MAGIC);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, now, sizeof(now)), sizeof(text));
    close(fd);
    assert_string_equal(now, text);
}

static void an_empty_file_and_a_pipe_are_no_rings(void **state)
{
    (void)state;
    close(open(path, O_CREAT | O_RDWR, 0600));
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BAD_MAGIC);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BAD_MAGIC);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_IO);
    assert_int_equal(error.sys_errno, EISDIR);
}

static void a_file_that_was_cut_is_refused(void **state)
{
    (void)state;
    ssmd_ring_close(open_ring(BOTH));
    assert_int_equal(truncate(path, FILE_BYTES - 1), 0);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BAD_SIZE);
    assert_int_equal(error.value, FILE_BYTES - 1);
    assert_int_equal(error.expected, FILE_BYTES);
}

static void every_prefix_of_the_header_is_refused(void **state)
{
    (void)state;
    ssmd_ring_close(open_ring(BOTH));
    for (off_t n = 1024; n >= 0; n -= 8) {
        assert_int_equal(truncate(path, n), 0);
        int status = try_open(SSMD_PRODUCER);
        assert_true(status == SSMD_BAD_MAGIC || status == SSMD_BAD_SIZE || status == SSMD_BAD_VERSION);
    }
}

static void a_capacity_that_is_none_is_refused(void **state)
{
    (void)state;
    const uint64_t capacities[] = {0, 1, 65535, 65537, 98304, UINT64_C(1) << 40, UINT64_MAX};
    for (size_t i = 0; i < sizeof(capacities) / sizeof(capacities[0]); i++) {
        ssmd_ring_close(open_ring(BOTH));
        patch_u64(capacities[i], AT_CAPACITY);
        assert_int_equal(try_open(SSMD_PRODUCER), SSMD_BAD_SIZE);
        unlink(path);
        ssmd_ring *ring;
        if (capacities[i] != 0)
            assert_int_equal(ssmd_ring_open(path, capacities[i], BOTH, &ring, &error), SSMD_BAD_SIZE);
    }
}

static void another_capacity_than_asked_is_refused(void **state)
{
    (void)state;
    ssmd_ring *ring;
    ssmd_ring_close(open_ring(BOTH));
    assert_int_equal(ssmd_ring_open(path, 2 * CAPACITY, BOTH, &ring, &error), SSMD_BAD_SIZE);
    assert_int_equal(error.value, CAPACITY);
    assert_int_equal(error.expected, 2 * CAPACITY);
}

static void a_ring_of_another_boot_is_stale_for_all(void **state)
{
    (void)state;
    ssmd_ring_close(open_ring(BOTH));
    patch("00000000-0000", 13, AT_BOOT_ID);
    for (int role = SSMD_OBSERVER; role <= BOTH; role++)
        assert_int_equal(try_open(role), SSMD_STALE);
    assert_int_equal(ssmd_ring_create(path, CAPACITY, NULL, &error), SSMD_OK);
    assert_int_equal(try_open(BOTH), SSMD_OK);
}

static void positions_that_cannot_be_are_refused(void **state)
{
    (void)state;
    ssmd_ring_close(open_ring(BOTH));
    patch_u64(CAPACITY + 8, AT_HEAD);
    assert_int_equal(try_open(SSMD_PRODUCER), SSMD_DAMAGED);
    patch_u64(8, AT_HEAD);
    patch_u64(16, AT_TAIL);
    assert_int_equal(try_open(SSMD_CONSUMER), SSMD_DAMAGED);
    assert_int_equal(try_open(SSMD_OBSERVER), SSMD_OK);
}

static void a_folder_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    ssmd_ring *ring;
    assert_int_equal(ssmd_ring_open("/nonexistent/ring", 0, BOTH, &ring, &error), SSMD_IO);
    assert_int_equal(error.sys_errno, ENOENT);
    assert_null(ring);
}

/* ---- making anew ------------------------------------------------------------------------------ */

static void making_leaves_nothing_beside_the_ring(void **state)
{
    (void)state;
    char command[160];
    ssmd_ring_close(open_ring(BOTH));
    assert_int_equal(ssmd_ring_create(path, 0, NULL, &error), SSMD_OK);
    snprintf(command, sizeof(command), "test \"$(ls -A '%s')\" = ring", folder);
    assert_int_equal(system(command), 0);
}

static void making_anew_waits_for_nobody_and_evicts_nobody(void **state)
{
    (void)state;
    for (int role = SSMD_PRODUCER; role <= SSMD_CONSUMER; role++) {
        ssmd_ring *ring = open_ring(role);
        assert_int_equal(ssmd_ring_create(path, CAPACITY, NULL, &error), SSMD_BUSY);
        assert_int_equal(error.value, getpid());
        ssmd_ring_close(ring);
    }
    assert_int_equal(ssmd_ring_create(path, CAPACITY, NULL, &error), SSMD_OK);
}

static void a_ring_made_anew_is_empty_and_knows_the_journal(void **state)
{
    (void)state;
    ssmd_commit journal = {.generation = 99,
                           .position = 99,
                           .last_number = 41,
                           .last_recv_ns = 5,
                           .segment_first = 99,
                           .max_connection = 3,
                           .clean = 1,
                           .segment_day = 20260101};
    ssmd_commit found;
    ssmd_resume resume;
    ssmd_ring *ring = open_ring(BOTH);
    push(ring, 1, 104);
    ssmd_ring_close(ring);
    assert_int_equal(ssmd_ring_create(path, CAPACITY, &journal, &error), SSMD_OK);
    ring = open_ring(BOTH);
    assert_int_equal(ssmd_ring_head(ring), 0);
    assert_int_equal(ssmd_ring_commit_load(ring, &found), SSMD_OK);
    assert_int_equal(found.generation, 1);
    assert_int_equal(found.position, 0);
    assert_int_equal(found.segment_first, 0);
    assert_int_equal(found.segment_day, 0);
    assert_int_equal(found.durable_number, 41);
    assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_OK);
    assert_int_equal(resume.last_number, 41);
    assert_int_equal(resume.last_recv_ns, 5);
    assert_int_equal(resume.max_connection, 3);
    assert_int_equal(resume.clean, 1);
    ssmd_ring_close(ring);
}

static void an_old_version_can_be_made_anew(void **state)
{
    (void)state;
    uint32_t version = 0;
    ssmd_ring_close(open_ring(BOTH));
    patch(&version, sizeof(version), AT_VERSION);
    assert_int_equal(ssmd_ring_create(path, CAPACITY, NULL, &error), SSMD_OK);
    assert_int_equal(try_open(BOTH), SSMD_OK);
}

/* ---- commit line ------------------------------------------------------------------------------ */

static const ssmd_commit SOME = {.position = 1,
                                 .last_number = 2,
                                 .last_recv_ns = 3,
                                 .segment_first = 4,
                                 .segment_start_ns = 5,
                                 .segment_offset = 6,
                                 .segment_records = 7,
                                 .checkpoint_offset = 8,
                                 .durable_number = 9,
                                 .crc32c = 10,
                                 .max_connection = 11,
                                 .clean = 12,
                                 .segment_day = 13};

static void without_a_commit_there_is_none(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    ssmd_commit found = SOME;
    assert_int_equal(ssmd_ring_commit_load(ring, &found), SSMD_EMPTY);
    assert_int_equal(found.generation, 0);
    assert_int_equal(found.position, 0);
    ssmd_ring_close(ring);
}

static void a_commit_comes_back_whole_and_outlives_its_writer(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    ssmd_commit commit = SOME, found;
    for (uint64_t generation = 1; generation <= 5; generation++) {
        commit.position += 8;
        assert_int_equal(ssmd_ring_commit_store(ring, &commit), SSMD_OK);
        assert_int_equal(commit.generation, generation);
        assert_int_equal(ssmd_ring_commit_load(ring, &found), SSMD_OK);
        assert_memory_equal(&found, &commit, sizeof(commit));
        ssmd_ring_close(ring);
        ring = open_ring(BOTH);
    }
    ssmd_ring_close(ring);
}

/* A writer killed between any two of its stores: the commit before stands, and the next store works. */
static void a_torn_commit_leaves_the_one_before(void **state)
{
    (void)state;
    ssmd_commit commit = SOME, next = SOME, found;
    uint8_t whole[SLOT_BYTES];
    next.position = 1000;
    next.crc32c = 4711;
    for (size_t stored = 0; stored <= 13; stored++) { /* begin, 11 words, end */
        unlink(path);
        ssmd_ring *ring = open_ring(BOTH);
        for (int i = 0; i < 3; i++) /* generations 1 to 3; the next goes over 2 */
            ssmd_ring_commit_store(ring, &commit);
        uint8_t *slot = (uint8_t *)ring->header + AT_COMMIT;
        uint8_t before[SLOT_BYTES];
        memcpy(before, slot, SLOT_BYTES);
        ssmd_ring_commit_store(ring, &next);
        memcpy(whole, slot, SLOT_BYTES);
        memcpy(slot, before, SLOT_BYTES);
        memcpy(slot, whole, 8 * stored);
        assert_int_equal(ssmd_ring_commit_load(ring, &found), SSMD_OK);
        assert_int_equal(found.generation, stored == 13 ? 4 : 3);
        assert_int_equal(found.position, stored == 13 ? 1000 : 1);
        assert_int_equal(ssmd_ring_commit_store(ring, &next), SSMD_OK);
        assert_int_equal(ssmd_ring_commit_load(ring, &found), SSMD_OK);
        assert_int_equal(found.generation, stored == 13 ? 5 : 4);
        assert_int_equal(found.crc32c, 4711);
        ssmd_ring_close(ring);
    }
}

static void two_torn_slots_are_damage(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    ssmd_commit commit = SOME, found;
    ssmd_ring_commit_store(ring, &commit);
    ssmd_ring_commit_store(ring, &commit);
    for (int slot = 0; slot < 2; slot++)
        *(uint64_t *)(void *)((uint8_t *)ring->header + AT_COMMIT + slot * SLOT_BYTES) += 2;
    assert_int_equal(ssmd_ring_commit_load(ring, &found), SSMD_DAMAGED);
    ssmd_ring_close(ring);
}

/* ---- where a producer goes on ------------------------------------------------------------------ */

static void resume_of_nothing_is_clean_and_zero(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(SSMD_PRODUCER);
    ssmd_resume resume;
    assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_OK);
    assert_int_equal(resume.last_number, 0);
    assert_int_equal(resume.clean, 1);
    ssmd_ring_close(ring);
}

static void resume_walks_what_is_not_committed(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    uint8_t record[256];
    ssmd_resume resume;
    ssmd_commit commit = {.last_number = 10, .last_recv_ns = 1, .max_connection = 4, .clean = 1};
    assert_int_equal(ssmd_ring_commit_store(ring, &commit), SSMD_OK);
    for (uint64_t number = 11; number <= 13; number++)
        assert_int_equal(ssmd_ring_push(ring, record, maker_record(record, number, 500 + (int64_t)number, 6, 112)),
                         SSMD_OK);
    assert_int_equal(ssmd_ring_push(ring, record, maker_record(record, 14, 900, 2, 112)), SSMD_OK);
    assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_OK);
    assert_int_equal(resume.last_number, 14);
    assert_int_equal(resume.last_recv_ns, 900);
    assert_int_equal(resume.max_connection, 6);
    assert_int_equal(resume.clean, 0);
    ssmd_ring_close(ring);
}

/* Killed between commit and release: the commit is ahead of the tail. */
static void resume_starts_behind_a_commit_that_was_not_released(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    ssmd_resume resume;
    push(ring, 1, 104);
    ssmd_commit commit = {.position = 104, .last_number = 1, .max_connection = 7};
    assert_int_equal(ssmd_ring_commit_store(ring, &commit), SSMD_OK);
    assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_OK);
    assert_int_equal(resume.last_number, 1);
    push(ring, 2, 104);
    assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_OK);
    assert_int_equal(resume.last_number, 2);
    ssmd_ring_close(ring);
}

static void only_stopped_as_the_last_record_is_clean(void **state)
{
    (void)state;
    uint8_t record[256];
    ssmd_resume resume;
    for (uint16_t what = 0; what <= 6; what++) {
        unlink(path);
        ssmd_ring *ring = open_ring(BOTH);
        assert_int_equal(ssmd_ring_push(ring, record, maker_event(record, 1, 1, 1, what)), SSMD_OK);
        assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_OK);
        assert_int_equal(resume.clean, what == MAKER_STOPPED);
        push(ring, 2, 104);
        assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_OK);
        assert_int_equal(resume.clean, 0);
        ssmd_ring_close(ring);
    }
}

static void a_body_pointer_that_leads_nowhere_is_not_followed(void **state)
{
    (void)state;
    const uint64_t pointers[] = {0,
                                 1,
                                 2,
                                 3,
                                 UINT64_C(0x0003000500000001),
                                 UINT64_C(0x000300057ffffffc),
                                 UINT64_C(0x0003000580000000),
                                 UINT64_C(0x00030005ffffffcc),
                                 UINT64_MAX,
                                 UINT64_C(0x0003000500000020)};
    uint8_t *record = malloc(160); /* its end is the end of what ASan lets us read */
    for (size_t i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++) {
        maker_event(record, 1, 1, 1, MAKER_STOPPED);
        maker_put(record + 88, pointers[i], 8);
        assert_false(ssmd_record_is_stopped(record, 160));
    }
    maker_event(record, 1, 1, 1, MAKER_STOPPED);
    assert_true(ssmd_record_is_stopped(record, 160));
    free(record);
}

static void resume_refuses_what_are_no_records(void **state)
{
    (void)state;
    const uint32_t words[] = {0, 10, 13, 1000, UINT32_MAX};
    uint8_t record[104];
    ssmd_resume resume;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        unlink(path);
        ssmd_ring *ring = open_ring(BOTH);
        maker_record(record, 1, 1, 1, sizeof(record));
        maker_put(record + 4, words[i], 4);
        assert_int_equal(ssmd_ring_push(ring, record, sizeof(record)), SSMD_OK);
        assert_int_equal(ssmd_ring_resume(ring, &resume), SSMD_DAMAGED);
        ssmd_ring_close(ring);
    }
}

/* ---- clock and status lines ---------------------------------------------------------------------- */

static void the_clock_line_carries_an_anchor(void **state)
{
    (void)state;
    ssmd_ring *producer = open_ring(SSMD_PRODUCER), *observer = open_ring(SSMD_OBSERVER);
    ssmd_clock_anchor anchor = {.ticks = 1, .wall_ns = 2, .ns_per_tick_q32 = 3, .uncertainty_ns = 4, .source = 1};
    ssmd_clock_anchor found;
    assert_int_equal(ssmd_ring_clock_load(observer, &found), SSMD_EMPTY);
    for (int i = 0; i < 3; i++) {
        anchor.ticks++;
        assert_int_equal(ssmd_ring_clock_store(producer, &anchor), SSMD_OK);
        assert_int_equal(ssmd_ring_clock_load(observer, &found), SSMD_OK);
        assert_memory_equal(&found, &anchor, sizeof(anchor));
    }
    atomic_fetch_add(&producer->header->clock.sequence, 1); /* killed in the middle of a store */
    assert_int_equal(ssmd_ring_clock_load(observer, &found), SSMD_EMPTY);
    assert_int_equal(ssmd_ring_clock_store(producer, &anchor), SSMD_OK);
    assert_int_equal(ssmd_ring_clock_load(observer, &found), SSMD_OK);
    ssmd_ring_close(producer);
    ssmd_ring_close(observer);
}

static void the_status_line_carries_every_field(void **state)
{
    (void)state;
    ssmd_ring *consumer = open_ring(SSMD_CONSUMER), *observer = open_ring(SSMD_OBSERVER);
    ssmd_flusher_status line = {.state = 1,
                                .status = -6,
                                .sys_errno = 28,
                                .what = 5,
                                .error_since_ns = 6,
                                .heartbeat_ns = 7,
                                .pid = 8,
                                .written_bytes = 9,
                                .written_records = 10,
                                .segments_sealed = 11,
                                .syncs = 12,
                                .longest_sync_ns = 13,
                                .errors = 14};
    ssmd_flusher_status found;
    ssmd_ring_status(observer, &found);
    assert_int_equal(found.state, SSMD_FLUSHER_NONE);
    assert_int_equal(ssmd_ring_status_store(consumer, &line), SSMD_OK);
    assert_int_equal(ssmd_ring_status(observer, &found), SSMD_OK);
    assert_memory_equal(&found, &line, sizeof(line));
    ssmd_ring_close(consumer);
    ssmd_ring_close(observer);
}

/* ---- bell ---------------------------------------------------------------------------------- */

enum { FOR_EVER_S = 20 }; /* a sleep that nobody ends; a test that takes so long has failed */

static void *sleep_for_ever(void *ring)
{
    ssmd_ring_sleep(ring, 0, FOR_EVER_S * UINT64_C(1000000000));
    return NULL;
}

static bool asleep(ssmd_ring *ring)
{
    return atomic_load(&ring->header->bell.asleep) != 0;
}

static void the_next_record_ends_a_sleep_at_once(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    pthread_t sleeper;
    int64_t began_ns = ssmd_clock_monotonic_ns();
    assert_int_equal(pthread_create(&sleeper, NULL, sleep_for_ever, ring), 0);
    while (!asleep(ring)) /* it may be on its way still: that must not matter */
        sched_yield();
    push(ring, 1, 256);
    ssmd_ring_wake_inline(ring, 1);
    pthread_join(sleeper, NULL);
    assert_true(ssmd_clock_monotonic_ns() - began_ns < FOR_EVER_S * INT64_C(1000000000));
    assert_false(asleep(ring));
    ssmd_ring_close(ring);
}

static void nobody_sleeps_over_a_record_that_is_there(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    int64_t began_ns = ssmd_clock_monotonic_ns();
    push(ring, 1, 256);
    sleep_for_ever(ring);
    assert_true(ssmd_clock_monotonic_ns() - began_ns < FOR_EVER_S * INT64_C(1000000000));
    ssmd_ring_close(ring);
}

static void a_sleep_ends_by_itself_when_nobody_comes(void **state)
{
    (void)state;
    ssmd_ring *ring = open_ring(BOTH);
    ssmd_ring_sleep(ring, 0, 1000000);
    assert_false(asleep(ring));
    ssmd_ring_close(ring);
}

/* The state of a sleeping consumer, built. */
static ssmd_ring *ring_of_a_sleeper(uint64_t due_ticks)
{
    ssmd_ring *ring = open_ring(BOTH);
    atomic_store(&ring->header->bell.due_ticks, due_ticks);
    atomic_store(&ring->header->bell.asleep, 1);
    return ring;
}

static void a_sleeper_is_left_alone_before_it_is_due(void **state)
{
    (void)state;
    ssmd_ring *ring = ring_of_a_sleeper(1000);
    push(ring, 1, 256);
    ssmd_ring_wake_inline(ring, 999);
    assert_true(asleep(ring));
    ssmd_ring_wake_inline(ring, 1000);
    assert_false(asleep(ring));
    ssmd_ring_close(ring);
}

static void half_a_small_ring_wakes_a_sleeper_before_it_is_due(void **state)
{
    (void)state;
    ssmd_ring *ring = ring_of_a_sleeper(1000);
    push(ring, 1, CAPACITY / 2 - 256);
    ssmd_ring_wake_inline(ring, 1);
    assert_true(asleep(ring));
    push(ring, 2, 256);
    ssmd_ring_wake_inline(ring, 1);
    assert_false(asleep(ring));
    ssmd_ring_close(ring);
}

static void only_a_consumer_sleeps_and_an_observer_wakes_nobody(void **state)
{
    (void)state;
    ssmd_ring *producer = open_ring(SSMD_PRODUCER);
    sleep_for_ever(producer);
    atomic_store(&producer->header->bell.asleep, 1);
    ssmd_ring *observer = open_ring(SSMD_OBSERVER);
    ssmd_ring_wake(observer);
    assert_true(asleep(producer));
    ssmd_ring_close(observer);
    ssmd_ring_close(producer);
}

#define RING_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RING_TEST(a_new_ring_is_empty_and_as_large_as_asked),
        RING_TEST(the_default_is_4_mib),
        RING_TEST(what_is_not_published_is_not_seen),
        RING_TEST(a_batch_is_published_at_once),
        RING_TEST(a_claim_that_is_not_advanced_over_takes_nothing),
        RING_TEST(full_and_too_large_are_different_answers),
        RING_TEST(a_full_ring_gives_exactly_the_room_that_was_released),
        RING_TEST(what_was_advanced_over_takes_room_before_it_is_published),
        RING_TEST(a_record_over_the_end_is_contiguous),
        RING_TEST(a_full_span_over_the_end_is_contiguous),
        RING_TEST(a_push_that_is_no_multiple_of_8_is_refused),
        RING_TEST(whoever_lacks_the_role_cannot_use_it),
        RING_TEST(a_new_producer_goes_on_behind_the_last_published_byte),
        RING_TEST(a_new_consumer_gets_what_was_not_released),
        RING_TEST(a_second_producer_is_told_who_is_the_first),
        RING_TEST(a_second_consumer_is_told_who_is_the_first),
        RING_TEST(observers_come_and_go_freely),
        RING_TEST(an_observer_makes_no_file),
        RING_TEST(attach_makes_no_file),
        RING_TEST(closing_another_descriptor_of_the_file_gives_no_role_up),
        RING_TEST(a_role_ends_with_its_process_however_it_dies),
        RING_TEST(another_version_is_named),
        RING_TEST(what_is_no_ring_is_left_alone),
        RING_TEST(an_empty_file_and_a_pipe_are_no_rings),
        RING_TEST(a_file_that_was_cut_is_refused),
        RING_TEST(every_prefix_of_the_header_is_refused),
        RING_TEST(a_capacity_that_is_none_is_refused),
        RING_TEST(another_capacity_than_asked_is_refused),
        RING_TEST(a_ring_of_another_boot_is_stale_for_all),
        RING_TEST(positions_that_cannot_be_are_refused),
        RING_TEST(a_folder_that_is_not_there_is_an_error),
        RING_TEST(making_leaves_nothing_beside_the_ring),
        RING_TEST(making_anew_waits_for_nobody_and_evicts_nobody),
        RING_TEST(a_ring_made_anew_is_empty_and_knows_the_journal),
        RING_TEST(an_old_version_can_be_made_anew),
        RING_TEST(without_a_commit_there_is_none),
        RING_TEST(a_commit_comes_back_whole_and_outlives_its_writer),
        RING_TEST(a_torn_commit_leaves_the_one_before),
        RING_TEST(two_torn_slots_are_damage),
        RING_TEST(resume_of_nothing_is_clean_and_zero),
        RING_TEST(resume_walks_what_is_not_committed),
        RING_TEST(resume_starts_behind_a_commit_that_was_not_released),
        RING_TEST(only_stopped_as_the_last_record_is_clean),
        RING_TEST(a_body_pointer_that_leads_nowhere_is_not_followed),
        RING_TEST(resume_refuses_what_are_no_records),
        RING_TEST(the_clock_line_carries_an_anchor),
        RING_TEST(the_status_line_carries_every_field),
        RING_TEST(the_next_record_ends_a_sleep_at_once),
        RING_TEST(nobody_sleeps_over_a_record_that_is_there),
        RING_TEST(a_sleep_ends_by_itself_when_nobody_comes),
        RING_TEST(a_sleeper_is_left_alone_before_it_is_due),
        RING_TEST(half_a_small_ring_wakes_a_sleeper_before_it_is_due),
        RING_TEST(only_a_consumer_sleeps_and_an_observer_wakes_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
