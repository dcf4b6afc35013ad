/* test_flusher.c - from ring to files: where segments end, when they are synced, what failures do, and that a flusher
 * killed at any point loses and doubles nothing.
 *
 * Clocks are set by hand. Crashes: a child flushes and dies at its n-th file call or in-between point, for every n;
 * then another flusher goes on, and all records must be in the files once, in order, under checkpoints that hold.
 * Whole records that stood in a file at the crash must still stand there: somebody may have read them.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "fake_files.h"
#include "flusher.h"
#include "ring_internal.h"

#define SECOND INT64_C(1000000000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define NOON INT64_C(1795348800000000000) /* 2026-11-22T12:00:00Z */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define KILLS 10
#define SECOND_CRASHES 3
#else
#define KILLS 40
#define SECOND_CRASHES 12
#endif

static char folder[64], ring_path[96], root[96];
static fake_files fake;
static ssmd_file_ops ops;
static ssmd_flusher_options options;
static ssmd_error error;
static ssmd_ring *producer;
static uint64_t pushed;

static uint64_t expected(uint8_t *at, uint64_t number)
{
    return maker_record(at, number, NOON + (int64_t)number * 10 * SECOND, (uint32_t)(number / 10),
                        104 + 8 * (number * 37 % 60));
}

static int set_up(void **state)
{
    (void)state;
    memset(&fake, 0, sizeof(fake));
    fake.code = -EIO;
    fake.wall_ns = NOON;
    fake.monotonic_ns = SECOND;
    ops = fake_ops(&fake);
    ops.reserve_bytes = 1024; /* so that each crash and failure is also met with blocks set aside */
    options = (ssmd_flusher_options){.root = root,
                                     .sync_interval_ms = 200,
                                     .sync_bytes = 8 << 20,
                                     .rotate_minutes = 60,
                                     .rotate_bytes = 256 << 20,
                                     .nap_us = 100,
                                     .ops = &ops};
    pushed = 0;
    if (fake_folder(folder, sizeof(folder)) != 0)
        return -1;
    snprintf(ring_path, sizeof(ring_path), "%s/ring", folder);
    snprintf(root, sizeof(root), "%s/data/feed", folder);
    return ssmd_ring_open(ring_path, SSMD_RING_MIN_BYTES, SSMD_PRODUCER, &producer, &error);
}

static int tear_down(void **state)
{
    (void)state;
    ssmd_ring_close(producer);
    producer = NULL;
    return fake_remove(folder);
}

static ssmd_flusher *open_flusher(void)
{
    ssmd_flusher *flusher;
    int status = ssmd_flusher_open(ring_path, &options, &flusher, &error);
    if (status != SSMD_OK)
        fail_msg("%s: %s", error.what, ssmd_status_text(status));
    return flusher;
}

static void push(uint64_t count)
{
    uint8_t record[1024];
    for (; count > 0; count--) {
        pushed++;
        assert_int_equal(ssmd_ring_push(producer, record, expected(record, pushed)), SSMD_OK);
    }
}

/* A record at a time of its own; journals with such records are checked by their files, not by `expected`. */
static void push_at(int64_t recv_ns, uint64_t bytes)
{
    uint8_t record[4096];
    pushed++;
    assert_int_equal(ssmd_ring_push(producer, record, maker_record(record, pushed, recv_ns, 1, bytes)), SSMD_OK);
}

static ssmd_commit committed(void)
{
    ssmd_commit commit;
    assert_int_equal(ssmd_ring_commit_load(producer, &commit), SSMD_OK);
    return commit;
}

static ssmd_flusher_status line(void)
{
    ssmd_flusher_status status;
    ssmd_ring_status(producer, &status);
    return status;
}

static int64_t size_of(const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    return REAL.size(NULL, path);
}

static journal check(uint64_t records)
{
    journal found = journal_read(root, expected);
    if (found.wrong != NULL)
        fail_msg("%s: %s", found.wrong, found.where);
    assert_int_equal(found.records, records);
    return found;
}

static size_t count_of(char letter)
{
    size_t n = 0;
    for (size_t i = 0; i < fake.logged; i++)
        n += fake.log[i] == letter;
    return n;
}

static void fail_next(char letter, int code, bool for_good)
{
    fake.only = letter;
    fake.calls = 0;
    fake.at = 1;
    fake.code = code;
    fake.for_good = for_good;
}

/* ---- the way of a record ------------------------------------------------------------------------ */

static void records_go_into_the_file_and_leave_the_ring(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_EMPTY);
    push(20);
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_OK);
    assert_int_equal(ssmd_ring_tail(producer), ssmd_ring_head(producer));
    ssmd_commit commit = committed();
    assert_int_equal(commit.position, ssmd_ring_head(producer));
    assert_int_equal(commit.segment_offset, ssmd_ring_head(producer));
    assert_int_equal(commit.last_number, 20);
    assert_int_equal(commit.last_recv_ns, NOON + 200 * SECOND);
    assert_int_equal(commit.max_connection, 2);
    assert_int_equal(commit.segment_first, 1);
    assert_int_equal(commit.segment_start_ns, NOON + 10 * SECOND);
    assert_int_equal(commit.segment_records, 20);
    assert_int_equal(commit.segment_day, 20261122);
    assert_int_equal(commit.durable_number, 0);
    check(20);
    assert_int_equal(count_of('w'), 1); /* one write for the whole span */
    ssmd_flusher_close(flusher);
}

static void the_status_line_counts(void **state)
{
    (void)state;
    fake.sync_takes_ns = 7;
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(line().state, SSMD_FLUSHER_STARTING);
    push(20);
    ssmd_flusher_step(flusher);
    fake.wall_ns += 5;
    ssmd_flusher_finish(flusher, true);
    ssmd_flusher_status status = line();
    assert_int_equal(status.state, SSMD_FLUSHER_RUNNING);
    assert_int_equal(status.written_records, 20);
    assert_int_equal(status.written_bytes, ssmd_ring_head(producer) + 136);
    assert_int_equal(status.segments_sealed, 1);
    assert_int_equal(status.syncs, 1);
    assert_int_equal(status.longest_sync_ns, 7);
    assert_int_equal(status.heartbeat_ns, NOON + 5);
    assert_int_equal(status.pid, getpid());
    ssmd_flusher_close(flusher);
    assert_int_equal(line().state, SSMD_FLUSHER_STOPPED);
    ssmd_flusher_close(open_flusher());
    assert_int_equal(line().written_records, 20); /* over restarts of the flusher */
}

static void a_journal_is_clean_while_its_last_record_says_stopped(void **state)
{
    (void)state;
    uint8_t record[256];
    ssmd_resume resume;
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(committed().clean, 1); /* without records */
    push(1);
    ssmd_flusher_step(flusher);
    assert_int_equal(committed().clean, 0);
    ssmd_ring_push(producer, record, maker_event(record, 2, NOON, 1, MAKER_STOPPED));
    ssmd_flusher_step(flusher);
    assert_int_equal(committed().clean, 1);
    ssmd_ring_resume(producer, &resume);
    assert_int_equal(resume.clean, 1);
    assert_int_equal(resume.last_number, 2);
    ssmd_flusher_close(flusher);
}

static void what_are_no_records_is_not_written(void **state)
{
    (void)state;
    uint8_t junk[104];
    ssmd_flusher *flusher = open_flusher();
    push(3);
    memset(junk, 0xee, sizeof(junk));
    assert_int_equal(ssmd_ring_push(producer, junk, sizeof(junk)), SSMD_OK);
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_MORE);
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_DAMAGED);
    assert_int_equal(line().state, SSMD_FLUSHER_STALLED);
    assert_int_equal(line().what, SSMD_WHAT_RING);
    check(3);
    ssmd_flusher_close(flusher);
}

static void a_step_is_bounded(void **state)
{
    (void)state;
    uint8_t *record = malloc(262144);
    ssmd_ring_close(producer);
    unlink(ring_path);
    assert_int_equal(ssmd_ring_open(ring_path, 4 << 20, SSMD_PRODUCER, &producer, &error), SSMD_OK);
    for (uint64_t number = 1; number <= 15; number++)
        assert_int_equal(ssmd_ring_push(producer, record, maker_record(record, number, NOON, 1, 262144)), SSMD_OK);
    ssmd_flusher *flusher = open_flusher();
    for (int step = 1; step <= 3; step++) {
        assert_int_equal(ssmd_flusher_step(flusher), SSMD_MORE);
        assert_int_equal(ssmd_ring_tail(producer), step * SSMD_FLUSHER_STEP_BYTES);
    }
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_OK);
    ssmd_flusher_close(flusher);
    free(record);
}

/* ---- where segments end ---------------------------------------------------------------------------- */

static void a_segment_ends_at_a_multiple_of_the_period(void **state)
{
    (void)state;
    options.rotate_minutes = 15;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON + 14 * MINUTE + 59 * SECOND + 999999999, 104);
    push_at(NOON + 15 * MINUTE, 104);
    push_at(NOON + 29 * MINUTE, 104);
    push_at(NOON + 31 * MINUTE, 104);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(size_of("2026-11-22/20261122T121459Z-000000000001.capnp"), 104 + 136);
    assert_int_equal(size_of("2026-11-22/20261122T121500Z-000000000002.capnp"), 208 + 136);
    assert_int_equal(size_of("2026-11-22/20261122T123100Z-000000000004.capnp.open"), 104);
    ssmd_flusher_close(flusher);
}

/* The wall clock may be set back: a record from before the segment's start stays with its neighbours. */
static void time_going_back_ends_no_segment(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON + 5, 104);
    push_at(NOON - 5 * HOUR, 104);
    push_at(NOON + 6, 104);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(size_of("2026-11-22/20261122T120000Z-000000000001.capnp.open"), 3 * 104);
    ssmd_flusher_close(flusher);
}

static void without_a_schedule_days_are_those_of_utc(void **state)
{
    (void)state;
    options.rotate_minutes = 0;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON + 12 * HOUR - 1, 104);
    push_at(NOON + 12 * HOUR, 104);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(size_of("2026-11-22/20261122T235959Z-000000000001.capnp"), 104 + 136);
    assert_int_equal(size_of("2026-11-23/20261123T000000Z-000000000002.capnp.open"), 104);
    ssmd_flusher_close(flusher);
}

static void days_follow_the_schedule(void **state)
{
    (void)state;
    const int64_t starts[] = {NOON - 25 * HOUR, NOON - HOUR, NOON + 22 * HOUR, NOON + 46 * HOUR};
    const uint32_t days[] = {20261121, 20261122, 20261123, 20261124};
    options.rotate_minutes = 0;
    options.day_start_ns = starts;
    options.day = days;
    options.days = 4;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON - HOUR - 1, 104);
    push_at(NOON - HOUR, 104);
    push_at(NOON + 22 * HOUR, 104);
    push_at(NOON + 46 * HOUR, 104); /* behind the table: UTC, 2026-11-24T10:00 */
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(size_of("2026-11-21/20261122T105959Z-000000000001.capnp"), 104 + 136);
    assert_int_equal(size_of("2026-11-22/20261122T110000Z-000000000002.capnp"), 104 + 136);
    assert_int_equal(size_of("2026-11-23/20261123T100000Z-000000000003.capnp"), 104 + 136);
    assert_int_equal(size_of("2026-11-24/20261124T100000Z-000000000004.capnp.open"), 104);
    ssmd_flusher_close(flusher);
}

static void days_that_do_not_rise_are_refused(void **state)
{
    (void)state;
    const int64_t starts[] = {5, 5};
    const uint32_t days[] = {20261121, 20261122};
    ssmd_flusher *flusher;
    options.day_start_ns = starts;
    options.day = days;
    options.days = 2;
    assert_int_equal(ssmd_flusher_open(ring_path, &options, &flusher, &error), SSMD_INVALID);
}

static void a_segment_ends_before_it_would_be_too_large(void **state)
{
    (void)state;
    options.rotate_bytes = 300;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON, 104);
    push_at(NOON, 104);
    push_at(NOON, 104);
    push_at(NOON, 1000); /* larger than a segment may be: alone in its own */
    push_at(NOON, 104);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(size_of("2026-11-22/20261122T120000Z-000000000001.capnp"), 208 + 136);
    assert_int_equal(size_of("2026-11-22/20261122T120000Z-000000000003.capnp"), 104 + 136);
    assert_int_equal(size_of("2026-11-22/20261122T120000Z-000000000004.capnp"), 1000 + 136);
    assert_int_equal(size_of("2026-11-22/20261122T120000Z-000000000005.capnp.open"), 104);
    ssmd_flusher_close(flusher);
}

static void a_period_that_is_over_is_sealed_without_a_record(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON, 104);
    ssmd_flusher_step(flusher);
    fake.wall_ns = NOON + HOUR + SECOND;
    ssmd_flusher_step(flusher);
    assert_int_equal(committed().segment_first, 1);
    fake.wall_ns++;
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_EMPTY);
    assert_int_equal(committed().segment_first, 0);
    assert_int_equal(committed().durable_number, 1);
    assert_int_equal(size_of("2026-11-22/20261122T120000Z-000000000001.capnp"), 104 + 136);
    push_at(NOON + 5, 104); /* late, of the period that was sealed: a segment of its own */
    ssmd_flusher_step(flusher);
    assert_int_equal(size_of("2026-11-22/20261122T120000Z-000000000002.capnp.open"), 104);
    ssmd_flusher_close(flusher);
}

/* Stamps follow a clock that was set forward a second late: that second is one segment, not one for each step. */
static void after_the_clock_was_set_forward_late_records_share_a_segment(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON, 104);
    ssmd_flusher_step(flusher);
    fake.wall_ns = NOON + 2 * HOUR;
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_EMPTY);
    assert_int_equal(committed().segment_first, 0); /* the period is over */
    for (int i = 0; i < 10; i++) {
        push_at(NOON + 5 + i, 104);
        ssmd_flusher_step(flusher);
        fake.monotonic_ns += SECOND / 10;
        assert_int_equal(ssmd_flusher_step(flusher), SSMD_EMPTY);
        assert_int_equal(committed().segment_first, 2);
    }
    fake.monotonic_ns += SECOND;
    ssmd_flusher_step(flusher); /* it syncs first */
    ssmd_flusher_step(flusher);
    assert_int_equal(committed().segment_first, 0);
    ssmd_flusher_close(flusher);
}

/* ---- when it is durable --------------------------------------------------------------------------- */

static void a_sync_comes_an_interval_after_the_first_byte_and_never_when_idle(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push(5);
    ssmd_flusher_step(flusher);
    fake.monotonic_ns += 199 * SECOND / 1000;
    push(5);
    ssmd_flusher_step(flusher);
    assert_int_equal(count_of('d'), 0);
    fake.monotonic_ns += SECOND / 1000;
    ssmd_flusher_step(flusher);
    assert_int_equal(count_of('d'), 1);
    assert_int_equal(committed().durable_number, 10);
    for (int i = 0; i < 100; i++) {
        fake.monotonic_ns += SECOND;
        assert_int_equal(ssmd_flusher_step(flusher), SSMD_EMPTY);
    }
    assert_int_equal(count_of('d'), 1);
    assert_int_equal(check(10).checkpoints, 1);
    ssmd_flusher_close(flusher);
}

static void a_sync_comes_after_so_many_bytes(void **state)
{
    (void)state;
    options.sync_bytes = 500;
    options.sync_interval_ms = 1000000;
    ssmd_flusher *flusher = open_flusher();
    push_at(NOON, 496);
    ssmd_flusher_drain(flusher);
    assert_int_equal(count_of('d'), 0);
    push_at(NOON, 104);
    ssmd_flusher_drain(flusher);
    assert_int_equal(count_of('d'), 1);
    assert_int_equal(committed().durable_number, 2);
    ssmd_flusher_close(flusher);
}

static void what_a_dead_flusher_left_unsynced_is_synced_by_the_next(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push(5);
    ssmd_flusher_step(flusher);
    ssmd_flusher_close(flusher);
    flusher = open_flusher();
    fake.monotonic_ns += SECOND;
    ssmd_flusher_step(flusher);
    assert_int_equal(committed().durable_number, 5);
    ssmd_flusher_close(flusher);
}

/* ---- failures --------------------------------------------------------------------------------------- */

static void a_full_disk_stalls_and_loses_nothing(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push(5);
    ssmd_flusher_step(flusher);
    push(5);
    fail_next('w', -ENOSPC, true);
    fake.half = true;
    for (int i = 0; i < 3; i++) {
        fake.wall_ns++;
        assert_int_equal(ssmd_flusher_step(flusher), SSMD_IO);
        ssmd_flusher_status status = line();
        assert_int_equal(status.state, SSMD_FLUSHER_STALLED);
        assert_int_equal(status.status, SSMD_IO);
        assert_int_equal(status.sys_errno, ENOSPC);
        assert_int_equal(status.what, SSMD_WHAT_WRITE);
        assert_int_equal(status.error_since_ns, NOON + 1);
        assert_int_equal(status.heartbeat_ns, fake.wall_ns); /* it lives and tries */
        assert_int_equal(status.errors, 1);
    }
    assert_int_equal(ssmd_flusher_fault(flusher, &error), SSMD_IO);
    assert_string_equal(error.what, "write segment");
    assert_true(ssmd_ring_head(producer) > ssmd_ring_tail(producer));
    fake.at = 0;
    push(5); /* more than was tried before */
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_OK);
    assert_int_equal(line().state, SSMD_FLUSHER_RUNNING);
    assert_int_equal(line().error_since_ns, 0);
    assert_int_equal(ssmd_flusher_fault(flusher, &error), SSMD_OK);
    assert_int_equal(ssmd_flusher_finish(flusher, true), SSMD_OK);
    check(15);
    ssmd_flusher_close(flusher);
}

static void a_failing_sync_stops_the_writing(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push(5);
    ssmd_flusher_step(flusher);
    fake.monotonic_ns += SECOND;
    fail_next('d', -EIO, true);
    push(5);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ssmd_flusher_step(flusher), SSMD_IO);
    assert_int_equal(line().what, SSMD_WHAT_SYNC);
    assert_int_equal(committed().last_number, 5);
    assert_int_equal(committed().durable_number, 0);
    fake.at = 0;
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(committed().durable_number, 5);
    assert_int_equal(ssmd_flusher_finish(flusher, true), SSMD_OK);
    check(10);
    ssmd_flusher_close(flusher);
}

/* One run with all there is: several segments, syncs, a seal at the end. */
static int scenario(ssmd_flusher *flusher)
{
    int status = SSMD_OK;
    for (int i = 0; i < 12 && status >= 0; i++) {
        status = ssmd_flusher_step(flusher);
        fake.monotonic_ns += SECOND / 8;
    }
    if (status >= 0)
        status = ssmd_flusher_drain(flusher);
    return status < 0 ? status : ssmd_flusher_finish(flusher, true);
}

static void scenario_options(void)
{
    options.rotate_minutes = 5;
    options.rotate_bytes = 4000;
}

static void every_single_failure_only_delays(void **state)
{
    for (int at = 1;; at++) {
        scenario_options();
        push(60);
        ssmd_flusher *flusher = open_flusher();
        fake.calls = 0;
        fake.at = at;
        fake.code = -EIO;
        fake.half = at % 2 == 0;
        int status = scenario(flusher);
        snapshot seen = snapshot_take(root);
        if (status < 0)
            status = scenario(flusher);
        assert_int_equal(status, SSMD_OK);
        assert_null(snapshot_lost(&seen));
        bool done = fake.calls < at;
        ssmd_flusher_close(flusher);
        journal found = check(60);
        assert_int_equal(found.sealed, found.segments);
        tear_down(state);
        assert_int_equal(set_up(state), 0);
        if (done) {
            assert_true(at > 60);
            break;
        }
    }
}

/* ---- crashes ---------------------------------------------------------------------------------------- */

/* In a child: flushes and dies at call `at`. True if it died there, false if it needed fewer calls. */
static bool flush_and_die(int at, bool half)
{
    pid_t child = fork();
    if (child == 0) {
        ssmd_flusher *flusher;
        fake.calls = 0;
        fake.at = at;
        fake.code = 0;
        fake.half = half;
        if (ssmd_flusher_open(ring_path, &options, &flusher, &error) != SSMD_OK)
            _exit(1);
        _exit(scenario(flusher) == SSMD_OK ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FAKE_DIED);
    return WEXITSTATUS(status) == FAKE_DIED;
}

static void go_on_and_check(uint64_t records)
{
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(scenario(flusher), SSMD_OK);
    ssmd_flusher_close(flusher);
    journal found = check(records);
    assert_int_equal(found.sealed, found.segments);
    ssmd_commit commit = committed();
    assert_int_equal(commit.last_number, records);
    assert_int_equal(commit.durable_number, records);
    assert_int_equal(commit.segment_first, 0);
    assert_int_equal(ssmd_ring_tail(producer), ssmd_ring_head(producer));
}

static void killed_at_any_call_it_goes_on_exactly_there(void **state)
{
    for (int half = 0; half <= 1; half++) {
        bool died = true;
        for (int at = 1; died; at++) {
            scenario_options();
            push(40);
            died = flush_and_die(at, half);
            push(20); /* the producer lives on */
            snapshot seen = snapshot_take(root);
            go_on_and_check(60);
            assert_null(snapshot_lost(&seen));
            tear_down(state);
            assert_int_equal(set_up(state), 0);
            assert_true(died || at > 60);
        }
    }
}

static void killed_again_while_it_recovers_it_still_goes_on(void **state)
{
    bool died = true;
    for (int at = 1; died; at += 3) {
        for (int again = 1; again <= SECOND_CRASHES; again++) {
            scenario_options();
            push(60);
            died = flush_and_die(at, true);
            snapshot seen = snapshot_take(root);
            flush_and_die(again, true);
            go_on_and_check(60);
            assert_null(snapshot_lost(&seen));
            tear_down(state);
            assert_int_equal(set_up(state), 0);
        }
    }
}

/* The same with real SIGKILLs wherever they hit, the producer pushing all the while. */
static void killed_at_any_instant_it_goes_on_exactly_there(void **state)
{
    (void)state;
    uint8_t record[1024];
    options.ops = NULL;
    options.rotate_bytes = 20000;
    options.sync_interval_ms = 1;
    options.nap_us = 10;
    for (unsigned kill_at = 0; kill_at < KILLS; kill_at++) {
        pid_t child = fork();
        if (child == 0) {
            ssmd_flusher *flusher;
            if (ssmd_flusher_open(ring_path, &options, &flusher, &error) != SSMD_OK)
                _exit(1);
            ssmd_flusher_run(flusher);
            _exit(0);
        }
        struct timespec end, now, pause = {0, 2000};
        clock_gettime(CLOCK_MONOTONIC, &end);
        end.tv_nsec += 1000000 + (kill_at * 7919 % 6000) * 1000;
        do {
            if (ssmd_ring_push(producer, record, expected(record, pushed + 1)) == SSMD_OK)
                pushed++;
            else
                nanosleep(&pause, NULL);
            clock_gettime(CLOCK_MONOTONIC, &now);
        } while (now.tv_sec * SECOND + now.tv_nsec < end.tv_sec * SECOND + end.tv_nsec);
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status)); /* it did not give up by itself */
    }
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(ssmd_flusher_finish(flusher, true), SSMD_OK);
    ssmd_flusher_close(flusher);
    check(pushed);
    assert_true(pushed > 100);
}

static void lost_bytes_are_reported_and_left_to_the_caller(void **state)
{
    (void)state;
    char path[256];
    ssmd_flusher *flusher = open_flusher();
    push(10);
    ssmd_flusher_step(flusher);
    uint64_t offset = committed().segment_offset;
    ssmd_flusher_close(flusher);
    push(5);
    snprintf(path, sizeof(path), "%s/2026-11-22/20261122T120010Z-000000000001.capnp.open", root);
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(ssmd_flusher_open(ring_path, &options, &flusher, &error), SSMD_DAMAGED);
    assert_int_equal(error.value, 1000);
    assert_int_equal(error.expected, offset);
    assert_string_equal(error.what, "length of the open segment");
    assert_int_equal(line().state, SSMD_FLUSHER_STALLED);
    assert_int_equal(line().what, SSMD_WHAT_LENGTH);
    options.forget_segment = 1;
    flusher = open_flusher();
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(size_of("2026-11-22/20261122T120010Z-000000000001.capnp.open"), 1000);
    assert_true(size_of("2026-11-22/20261122T120150Z-000000000011.capnp.open") > 0);
    ssmd_flusher_close(flusher);
}

/* ---- one flusher only -------------------------------------------------------------------------------- */

/* What can happen to the files of a flusher that runs. */
static void delete_segment(void)
{
    char command[300];
    snprintf(command, sizeof(command), "rm %s/*/*.capnp.open", root);
    assert_int_equal(system(command), 0);
}

static void delete_folder(void)
{
    assert_int_equal(fake_remove(root), 0);
}

static void move_folder(void)
{
    char moved[128];
    snprintf(moved, sizeof(moved), "%s/moved", folder);
    assert_int_equal(rename(root, moved), 0);
}

static void replace_folder(void)
{
    move_folder();
    assert_int_equal(mkdir(root, 0750), 0);
}

/* Records 1 to 3 are in the open segment when `happens`; the next look sees it, and 4 and 5 are in a segment of their
 * own. The ring held whatever was not written: nothing else is lost. */
static void goes_on_when(void (*happens)(void))
{
    char path[SSMD_PATH_BYTES];
    ssmd_flusher *flusher = open_flusher();
    push(3);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    happens();
    push(1);
    fake.monotonic_ns += 2 * SECOND;
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_DAMAGED);
    assert_int_equal(line().state, SSMD_FLUSHER_STALLED);
    assert_int_equal(line().what, SSMD_WHAT_GONE);
    assert_int_equal(line().losses, 1);
    assert_int_equal(line().lost_first, 1);
    assert_int_equal(line().lost_last, 3);
    assert_int_equal(line().lost_since_ns / SECOND, NOON / SECOND + 10);
    push(1);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(line().state, SSMD_FLUSHER_RUNNING);
    assert_int_equal(ssmd_flusher_finish(flusher, true), SSMD_OK);
    assert_int_equal(ssmd_segment_path(root, 20261122, NOON + 40 * SECOND, 4, SSMD_SEGMENT_SEALED, path, sizeof(path)),
                     SSMD_OK);
    assert_true(REAL.size(NULL, path) > 0);
    assert_int_equal(committed().last_number, 5);
    assert_int_equal(committed().durable_number, 5);
    ssmd_flusher_close(flusher);
    ssmd_flusher_close(open_flusher());
}

static void a_segment_that_is_deleted_under_it_is_told_and_it_goes_on(void **state)
{
    (void)state;
    goes_on_when(delete_segment);
}

static void a_folder_that_is_deleted_under_it_is_made_anew(void **state)
{
    (void)state;
    goes_on_when(delete_folder);
    assert_int_equal(line().lost_last, 3);
}

/* The file that was moved away is whole, and ends in a final checkpoint: only its name says that it is open. */
static void a_folder_that_is_moved_away_keeps_what_it_has(void **state)
{
    (void)state;
    char moved[128], command[400];
    goes_on_when(move_folder);
    snprintf(moved, sizeof(moved), "%s/moved", folder);
    snprintf(command, sizeof(command), "cd %s/*/ && mv *.open sealed.capnp", moved);
    assert_int_equal(system(command), 0);
    journal found = journal_read(moved, expected);
    assert_null(found.wrong);
    assert_int_equal(found.records, 3);
    assert_int_equal(found.checkpoints, 1);
}

static void a_folder_that_is_replaced_is_used_and_locked(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push(3);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    replace_folder();
    fake.monotonic_ns += 2 * SECOND;
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_DAMAGED);
    int lock;
    assert_int_equal(ssmd_journal_lock(root, &lock, &error), SSMD_BUSY);
    ssmd_flusher_close(flusher);
}

/* No segment is open: only the folder went, with all that was sealed in it. */
static void a_folder_without_an_open_segment_is_missed_too(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push(3);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    assert_int_equal(ssmd_flusher_finish(flusher, true), SSMD_OK);
    delete_folder();
    fake.monotonic_ns += 2 * SECOND;
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_DAMAGED);
    assert_int_equal(line().losses, 1);
    assert_int_equal(line().lost_last, 0);
    push(1);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    ssmd_flusher_close(flusher);
}

/* The name is what a rename needs: a seal that finds no file asks why at once, not a second later. */
static void a_seal_of_a_segment_that_is_gone_is_seen_at_once(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher();
    push(3);
    assert_int_equal(ssmd_flusher_drain(flusher), SSMD_OK);
    delete_folder();
    assert_int_equal(ssmd_flusher_finish(flusher, true), SSMD_IO);
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_DAMAGED);
    assert_int_equal(line().what, SSMD_WHAT_GONE);
    assert_int_equal(ssmd_flusher_finish(flusher, true), SSMD_OK);
    ssmd_flusher_close(flusher);
}

/* Somebody cleaned up dot files: no record is lost by that. */
static void a_lock_file_that_is_deleted_is_taken_again(void **state)
{
    (void)state;
    char path[128];
    int lock;
    ssmd_flusher *flusher = open_flusher();
    snprintf(path, sizeof(path), "%s/.flusher.lock", root);
    assert_int_equal(unlink(path), 0);
    fake.monotonic_ns += 2 * SECOND;
    assert_int_equal(ssmd_flusher_step(flusher), SSMD_EMPTY);
    assert_int_equal(line().losses, 0);
    assert_int_equal(ssmd_journal_lock(root, &lock, &error), SSMD_BUSY);
    ssmd_flusher_close(flusher);
}

static void a_second_flusher_of_the_ring_is_told_who_is_the_first(void **state)
{
    (void)state;
    ssmd_flusher *flusher = open_flusher(), *second;
    assert_int_equal(ssmd_flusher_open(ring_path, &options, &second, &error), SSMD_BUSY);
    assert_int_equal(error.value, getpid());
    assert_string_equal(error.what, "consumer");
    ssmd_flusher_close(flusher);
}

static void a_second_flusher_of_the_folder_is_told_who_is_the_first(void **state)
{
    (void)state;
    char other[128];
    ssmd_flusher *flusher = open_flusher(), *second;
    ssmd_ring *ring;
    snprintf(other, sizeof(other), "%s/other", folder);
    assert_int_equal(ssmd_ring_open(other, SSMD_RING_MIN_BYTES, SSMD_PRODUCER, &ring, &error), SSMD_OK);
    assert_int_equal(ssmd_flusher_open(other, &options, &second, &error), SSMD_BUSY);
    assert_int_equal(error.value, getpid());
    assert_string_equal(error.what, "flusher of the data folder");
    ssmd_flusher_close(flusher);
    assert_int_equal(ssmd_flusher_open(other, &options, &second, &error), SSMD_OK);
    ssmd_flusher_close(second);
    ssmd_ring_close(ring);
}

static void there_is_no_flusher_without_a_ring(void **state)
{
    (void)state;
    ssmd_flusher *flusher;
    assert_int_equal(ssmd_flusher_open("/nonexistent/ring", &options, &flusher, &error), SSMD_IO);
    assert_int_equal(error.sys_errno, ENOENT);
    assert_null(flusher);
}

/* ---- on a thread --------------------------------------------------------------------------------------- */

static void stopping_drains_and_seals(void **state)
{
    (void)state;
    options.ops = NULL;
    push(60);
    ssmd_flusher *flusher = open_flusher();
    assert_true(ssmd_flusher_finished(flusher));
    assert_int_equal(ssmd_flusher_start(flusher, &error), SSMD_OK);
    assert_int_equal(ssmd_flusher_start(flusher, &error), SSMD_INVALID);
    push(20);
    assert_int_equal(ssmd_flusher_stop(flusher, SSMD_STOP_SEAL, 10000), SSMD_OK);
    assert_true(ssmd_flusher_finished(flusher));
    assert_int_equal(line().state, SSMD_FLUSHER_STOPPED);
    journal found = check(80);
    assert_int_equal(found.sealed, found.segments);
    ssmd_flusher_close(flusher);
}

static int64_t noon(void *context)
{
    (void)context;
    return NOON;
}

/* With the records' own time of day: by the machine's their day is long over, and a segment of it would be sealed. */
static void stopping_without_a_seal_leaves_the_segment_to_the_next(void **state)
{
    (void)state;
    ops = ssmd_file_ops_libc;
    ops.wall_ns = noon;
    options.rotate_minutes = 1440;
    for (int run = 0; run < 3; run++) {
        ssmd_flusher *flusher = open_flusher();
        assert_int_equal(ssmd_flusher_start(flusher, &error), SSMD_OK);
        push(20);
        assert_int_equal(ssmd_flusher_stop(flusher, SSMD_STOP_DRAIN, 10000), SSMD_OK);
        assert_int_equal(committed().durable_number, pushed);
        ssmd_flusher_close(flusher);
    }
    journal found = check(60);
    assert_int_equal(found.segments, 1);
    assert_int_equal(found.sealed, 0);
}

static void a_stop_that_cannot_be_met_is_told_and_can_be_cut_short(void **state)
{
    (void)state;
    push(20);
    fail_next('w', -ENOSPC, true);
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(ssmd_flusher_start(flusher, &error), SSMD_OK);
    assert_int_equal(ssmd_flusher_stop(flusher, SSMD_STOP_SEAL, 20), SSMD_BUSY);
    assert_int_equal(ssmd_flusher_stop(flusher, SSMD_STOP_NOW, 10000), SSMD_IO);
    assert_int_equal(ssmd_flusher_fault(flusher, &error), SSMD_IO);
    ssmd_flusher_close(flusher);
    fake.at = 0;
    go_on_and_check(20);
}

static void closing_stops_a_running_thread(void **state)
{
    (void)state;
    options.ops = NULL;
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(ssmd_flusher_start(flusher, &error), SSMD_OK);
    ssmd_flusher_close(flusher);
    ssmd_flusher_close(open_flusher());
}

/* Signals must go to the threads that know what to do with them. */
static void the_thread_has_a_name_and_takes_no_signals(void **state)
{
    (void)state;
    options.ops = NULL;
    ssmd_flusher *flusher = open_flusher();
    assert_int_equal(ssmd_flusher_start(flusher, &error), SSMD_OK);
    push(1);
    while (line().written_records == 0) /* it has named itself before its first step */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    DIR *threads = opendir("/proc/self/task");
    bool seen = false;
    for (struct dirent *entry; (entry = readdir(threads)) != NULL;) {
        char path[320], text[4096];
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
        FILE *stream = fopen(path, "r");
        if (stream == NULL)
            continue;
        text[fread(text, 1, sizeof(text) - 1, stream)] = '\0';
        fclose(stream);
        if (strncmp(text, "Name:\tssmd-flusher\n", 19) == 0) {
            unsigned long long blocked = strtoull(strstr(text, "SigBlk:") + 7, NULL, 16);
            seen = (blocked >> (SIGTERM - 1) & 1) && (blocked >> (SIGINT - 1) & 1) && (blocked >> (SIGCHLD - 1) & 1);
        }
    }
    closedir(threads);
    ssmd_flusher_close(flusher);
    assert_true(seen);
}

#define FLUSHER_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FLUSHER_TEST(records_go_into_the_file_and_leave_the_ring),
        FLUSHER_TEST(the_status_line_counts),
        FLUSHER_TEST(a_journal_is_clean_while_its_last_record_says_stopped),
        FLUSHER_TEST(what_are_no_records_is_not_written),
        FLUSHER_TEST(a_step_is_bounded),
        FLUSHER_TEST(a_segment_ends_at_a_multiple_of_the_period),
        FLUSHER_TEST(time_going_back_ends_no_segment),
        FLUSHER_TEST(without_a_schedule_days_are_those_of_utc),
        FLUSHER_TEST(days_follow_the_schedule),
        FLUSHER_TEST(days_that_do_not_rise_are_refused),
        FLUSHER_TEST(a_segment_ends_before_it_would_be_too_large),
        FLUSHER_TEST(a_period_that_is_over_is_sealed_without_a_record),
        FLUSHER_TEST(after_the_clock_was_set_forward_late_records_share_a_segment),
        FLUSHER_TEST(a_sync_comes_an_interval_after_the_first_byte_and_never_when_idle),
        FLUSHER_TEST(a_sync_comes_after_so_many_bytes),
        FLUSHER_TEST(what_a_dead_flusher_left_unsynced_is_synced_by_the_next),
        FLUSHER_TEST(a_full_disk_stalls_and_loses_nothing),
        FLUSHER_TEST(a_failing_sync_stops_the_writing),
        FLUSHER_TEST(every_single_failure_only_delays),
        FLUSHER_TEST(killed_at_any_call_it_goes_on_exactly_there),
        FLUSHER_TEST(killed_again_while_it_recovers_it_still_goes_on),
        FLUSHER_TEST(killed_at_any_instant_it_goes_on_exactly_there),
        FLUSHER_TEST(lost_bytes_are_reported_and_left_to_the_caller),
        FLUSHER_TEST(a_segment_that_is_deleted_under_it_is_told_and_it_goes_on),
        FLUSHER_TEST(a_folder_that_is_deleted_under_it_is_made_anew),
        FLUSHER_TEST(a_folder_that_is_moved_away_keeps_what_it_has),
        FLUSHER_TEST(a_folder_that_is_replaced_is_used_and_locked),
        FLUSHER_TEST(a_folder_without_an_open_segment_is_missed_too),
        FLUSHER_TEST(a_seal_of_a_segment_that_is_gone_is_seen_at_once),
        FLUSHER_TEST(a_lock_file_that_is_deleted_is_taken_again),
        FLUSHER_TEST(a_second_flusher_of_the_ring_is_told_who_is_the_first),
        FLUSHER_TEST(a_second_flusher_of_the_folder_is_told_who_is_the_first),
        FLUSHER_TEST(there_is_no_flusher_without_a_ring),
        FLUSHER_TEST(stopping_drains_and_seals),
        FLUSHER_TEST(stopping_without_a_seal_leaves_the_segment_to_the_next),
        FLUSHER_TEST(a_stop_that_cannot_be_met_is_told_and_can_be_cut_short),
        FLUSHER_TEST(closing_stops_a_running_thread),
        FLUSHER_TEST(the_thread_has_a_name_and_takes_no_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
