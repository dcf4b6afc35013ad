/* test_segment.c - one segment file: its names, its bytes, and every way in which writing it can go wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <fcntl.h>

#include "fake_files.h"

#define START INT64_C(1795368351712374092) /* 2026-11-22T17:25:51.712374092Z */
#define DAY 20261122u
#define NAME "2026-11-22/20261122T172551Z-000000000001.capnp"

static char root[64];
static fake_files fake;
static ssmd_file_ops ops;
static ssmd_segment segment;
static ssmd_segment_fault fault;
static uint8_t records[65536];
static const ssmd_segment_mark MARK = {.last_number = 3, .last_recv_ns = START + 9, .max_connection = 4};
static const ssmd_segment_mark FINAL = {
    .last_number = 3, .last_recv_ns = START + 9, .max_connection = 4, .final = true};

static uint64_t expected(uint8_t *at, uint64_t number)
{
    return maker_record(at, number, START + (int64_t)number, 4, 104 + 8 * number);
}

static int set_up(void **state)
{
    (void)state;
    memset(&fake, 0, sizeof(fake));
    fake.code = -EIO;
    ops = fake_ops(&fake);
    if (fake_folder(root, sizeof(root)) != 0)
        return -1;
    return ssmd_segment_init(&segment, root, &ops) == SSMD_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    ssmd_segment_free(&segment);
    return fake_remove(root);
}

static int64_t size_of(const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    return REAL.size(NULL, path);
}

static void begin(void)
{
    assert_int_equal(ssmd_segment_begin(&segment, DAY, START, 1, &fault), SSMD_OK);
    assert_int_equal(ssmd_segment_create(&segment, &fault), SSMD_OK);
}

/* Records first..last as one span. */
static uint64_t span(uint64_t first, uint64_t last)
{
    uint64_t n = 0;
    for (uint64_t number = first; number <= last; number++)
        n += expected(records + n, number);
    return n;
}

static int append(uint64_t first, uint64_t last)
{
    uint64_t n = span(first, last);
    return ssmd_segment_append(&segment, records, n, last - first + 1, &fault);
}

static void fail_next(char letter, int code)
{
    fake.only = letter;
    fake.calls = 0;
    fake.at = 1;
    fake.code = code;
}

static void check(uint64_t count, bool sealed)
{
    journal found = journal_read(root, expected);
    if (found.wrong != NULL)
        fail_msg("%s: %s", found.wrong, found.where);
    assert_int_equal(found.records, count);
    assert_int_equal(found.sealed, sealed);
}

/* What a new process knows: the commit line's copy of identity and content. */
static void reborn(void)
{
    ssmd_segment known = segment;
    ssmd_segment_free(&segment);
    assert_int_equal(ssmd_segment_init(&segment, root, &ops), SSMD_OK);
    segment.first_number = known.first_number;
    segment.start_ns = known.start_ns;
    segment.day = known.day;
    segment.offset = known.offset;
    segment.records = known.records;
    segment.checkpoint_offset = known.checkpoint_offset;
    segment.crc32c = known.crc32c;
}

/* ---- names ---------------------------------------------------------------------------------- */

static void names_hold_day_second_and_first_number(void **state)
{
    (void)state;
    char path[128];
    assert_int_equal(ssmd_segment_path("/d/f", 20270102, START, 42, SSMD_SEGMENT_OPEN, path, sizeof(path)), SSMD_OK);
    assert_string_equal(path, "/d/f/2027-01-02/20261122T172551Z-000000000042.capnp.open");
    assert_int_equal(
        ssmd_segment_path("/d/f", DAY, 0, UINT64_C(1234567890123), SSMD_SEGMENT_SEALED, path, sizeof(path)), SSMD_OK);
    assert_string_equal(path, "/d/f/2026-11-22/19700101T000000Z-1234567890123.capnp");
    assert_int_equal(ssmd_segment_path("/d/f", DAY, -1, 1, SSMD_SEGMENT_ZST, path, sizeof(path)), SSMD_OK);
    assert_string_equal(path, "/d/f/2026-11-22/19691231T235959Z-000000000001.capnp.zst");
}

static void a_name_that_does_not_fit_is_no_name(void **state)
{
    (void)state;
    char path[40];
    assert_int_equal(ssmd_segment_path("/d/f", DAY, START, 1, 0, path, sizeof(path)), SSMD_TOO_LARGE);
    assert_int_equal(ssmd_segment_path("/d/f", DAY, START, 1, 3, path, sizeof(path)), SSMD_INVALID);
}

static void what_every_failure_is_called(void **state)
{
    (void)state;
    assert_string_equal(ssmd_flusher_what_text(SSMD_WHAT_NOTHING), "");
    for (uint32_t what = 1; what < SSMD_WHAT_COUNT; what++)
        assert_true(strlen(ssmd_flusher_what_text(what)) > 3);
    assert_string_equal(ssmd_flusher_what_text(SSMD_WHAT_COUNT), "unknown");
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void a_sealed_segment_is_its_records_and_a_final_checkpoint(void **state)
{
    (void)state;
    begin();
    assert_int_equal(append(1, 3), SSMD_OK);
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
    assert_int_equal(size_of(NAME ".open"), -ENOENT);
    assert_int_equal(size_of(NAME), 112 + 120 + 128 + 136);
    check(3, true);
    assert_int_equal(segment.day, 0);
    assert_int_equal(segment.offset, 0);
}

static void checkpoints_cover_what_came_since_the_one_before(void **state)
{
    (void)state;
    begin();
    for (uint64_t number = 1; number <= 3; number++) {
        ssmd_segment_mark mark = {.last_number = number};
        assert_int_equal(append(number, number), SSMD_OK);
        assert_int_equal(ssmd_segment_sync(&segment, &mark, &fault), SSMD_OK);
        assert_int_equal(segment.checkpoint_offset, segment.offset);
        assert_int_equal(size_of(NAME ".open"), segment.offset);
    }
    check(3, false);
}

static void a_checkpoint_says_what_it_was_told(void **state)
{
    (void)state;
    char path[256];
    uint8_t file[512];
    begin();
    append(1, 3);
    assert_int_equal(ssmd_segment_sync(&segment, &MARK, &fault), SSMD_OK);
    snprintf(path, sizeof(path), "%s/%s.open", root, NAME);
    FILE *stream = fopen(path, "rb");
    assert_int_equal(fread(file, 1, sizeof(file), stream), 360 + 136);
    fclose(stream);
    const uint8_t *at = file + 360;
    assert_int_equal(maker_get(at, 4), 0);
    assert_int_equal(maker_get(at + 4, 4), 16);
    assert_int_equal(maker_get(at + 8, 8), UINT64_C(0x0002000800000000));
    assert_int_equal(maker_get(at + 16, 8), 3);         /* number of the record before it */
    assert_int_equal(maker_get(at + 24, 8), START + 9); /* its receive time */
    assert_int_equal(maker_get(at + 72, 2), 10);        /* kind */
    assert_int_equal(maker_get(at + 80, 8), 0);         /* no frame */
    assert_int_equal(maker_get(at + 88, 8), UINT64_C(5) << 32);
    assert_int_equal(maker_get(at + 100, 4), 4);   /* maxConnection */
    assert_int_equal(maker_get(at + 104, 8), 496); /* bytes: 360 and its own 136 */
    assert_int_equal(maker_get(at + 112, 8), 360); /* offset */
    assert_int_equal(maker_get(at + 120, 8), 3);   /* records */
    assert_int_equal(maker_get(at + 128, 8), 0);   /* not final */
}

static void short_writes_and_interruptions_are_gone_on_with(void **state)
{
    (void)state;
    begin();
    fake.at_most = 100;
    fail_next('w', -EINTR);
    assert_int_equal(append(1, 3), SSMD_OK);
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
    check(3, true);
}

static void a_write_that_fails_half_way_leaves_nothing_behind(void **state)
{
    (void)state;
    begin();
    append(1, 1);
    uint64_t offset = segment.offset;
    uint32_t crc = segment.crc32c;
    fail_next('w', -ENOSPC);
    fake.half = true;
    assert_int_equal(append(2, 20), SSMD_IO); /* half of it is longer than a checkpoint */
    assert_int_equal(fault.sys_errno, ENOSPC);
    assert_int_equal(fault.what, SSMD_WHAT_WRITE);
    assert_int_equal(segment.offset, offset);
    assert_int_equal(segment.crc32c, crc);
    assert_int_equal(segment.records, 1);
    assert_true(size_of(NAME ".open") > (int64_t)offset);
    assert_int_equal(ssmd_segment_sync(&segment, &(ssmd_segment_mark){.last_number = 1}, &fault), SSMD_OK);
    assert_int_equal(size_of(NAME ".open"), offset + 136);
    assert_int_equal(append(2, 3), SSMD_OK);
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
    check(3, true);
}

/* ---- order and durability ----------------------------------------------------------------------- */

static void a_sync_covers_the_names_of_a_new_file_and_its_folder_once(void **state)
{
    (void)state;
    begin();
    append(1, 1);
    fake.logged = 0;
    ssmd_segment_sync(&segment, &(ssmd_segment_mark){.last_number = 1}, &fault);
    assert_memory_equal(fake.log, "wofcofcd", 8); /* write, root folder, day's folder, data */
    assert_int_equal(fake.logged, 8);
    append(2, 2);
    fake.logged = 0;
    ssmd_segment_sync(&segment, &(ssmd_segment_mark){.last_number = 2}, &fault);
    assert_memory_equal(fake.log, "wd", 2);
    assert_int_equal(fake.logged, 2);
}

static void a_seal_renames_after_the_data_and_syncs_the_name_after_that(void **state)
{
    (void)state;
    begin();
    append(1, 3);
    ssmd_segment_sync(&segment, &MARK, &fault);
    fake.logged = 0;
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
    assert_memory_equal(fake.log, "wdznofcc", 8);
    assert_int_equal(fake.logged, 8);
}

/* Linux may drop dirty pages at a failed sync: a second one alone would prove nothing. */
static void after_a_failed_sync_the_bytes_are_written_again(void **state)
{
    (void)state;
    begin();
    append(1, 3);
    fail_next('d', -EIO);
    assert_int_equal(ssmd_segment_sync(&segment, &MARK, &fault), SSMD_IO);
    assert_int_equal(fault.what, SSMD_WHAT_SYNC);
    assert_int_equal(segment.offset, 360);
    fake.logged = 0;
    assert_int_equal(ssmd_segment_sync(&segment, &MARK, &fault), SSMD_OK);
    assert_memory_equal(fake.log, "trwwd", 5); /* cut the checkpoint, read, write again, checkpoint, data */
    check(3, false);
}

static void bytes_that_a_failed_sync_lost_are_not_called_durable(void **state)
{
    (void)state;
    char path[256];
    begin();
    append(1, 3);
    fail_next('d', -EIO);
    ssmd_segment_sync(&segment, &MARK, &fault);
    snprintf(path, sizeof(path), "%s/%s.open", root, NAME);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "lost", 4, 200), 4);
    close(fd);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ssmd_segment_sync(&segment, &MARK, &fault), SSMD_DAMAGED);
        assert_int_equal(fault.what, SSMD_WHAT_CRC);
    }
}

static void every_single_failure_of_a_seal_can_be_repeated(void **state)
{
    for (int at = 1;; at++) {
        begin();
        append(1, 3);
        fake.only = 0;
        fake.calls = 0;
        fake.at = at;
        fake.code = -EIO;
        fake.half = true;
        int status = ssmd_segment_seal(&segment, &FINAL, &fault);
        bool done = fake.calls < at; /* it needs fewer calls than that */
        fake.at = 0;
        if (status != SSMD_OK) /* a failing close is no failure */
            assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
        check(3, true);
        tear_down(state);
        assert_int_equal(set_up(state), 0);
        if (done)
            break;
    }
}

/* ---- nothing is overwritten ------------------------------------------------------------------------ */

static void a_name_that_exists_in_any_form_is_refused(void **state)
{
    (void)state;
    const char *const forms[] = {".open", "", ".zst"};
    for (size_t i = 0; i < 3; i++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/2026-11-22", root);
        mkdir(path, 0700);
        snprintf(path, sizeof(path), "%s/%s%s", root, NAME, forms[i]);
        close(open(path, O_CREAT | O_RDWR, 0600));
        assert_int_equal(ssmd_segment_begin(&segment, DAY, START, 1, &fault), SSMD_IO);
        assert_int_equal(fault.sys_errno, EEXIST);
        assert_int_equal(segment.day, 0);
        unlink(path);
    }
    begin();
}

static void a_seal_never_replaces_a_file(void **state)
{
    (void)state;
    char path[256];
    begin();
    append(1, 3);
    snprintf(path, sizeof(path), "%s/%s", root, NAME);
    close(open(path, O_CREAT | O_RDWR, 0600));
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_IO);
    assert_int_equal(fault.sys_errno, EEXIST);
    assert_int_equal(size_of(NAME), 0);
    unlink(path);
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
    check(3, true);
}

/* ---- coming back ------------------------------------------------------------------------------------ */

static void what_was_not_committed_is_cut_and_written_again(void **state)
{
    (void)state;
    begin();
    append(1, 1);
    ssmd_segment committed = segment;
    append(2, 3);
    segment.offset = committed.offset;
    segment.crc32c = committed.crc32c;
    segment.records = committed.records;
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_OK);
    assert_int_equal(size_of(NAME ".open"), 112);
    assert_int_equal(append(2, 3), SSMD_OK);
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
    check(3, true);
}

static void a_shorter_file_is_damage_and_stays_as_it_is(void **state)
{
    (void)state;
    char path[256];
    begin();
    append(1, 3);
    snprintf(path, sizeof(path), "%s/%s.open", root, NAME);
    assert_int_equal(truncate(path, 359), 0);
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_DAMAGED);
    assert_int_equal(fault.what, SSMD_WHAT_LENGTH);
    assert_int_equal(fault.value, 359);
    assert_int_equal(fault.expected, 360);
    assert_int_equal(size_of(NAME ".open"), 359);
}

static void other_bytes_are_damage(void **state)
{
    (void)state;
    char path[256];
    begin();
    append(1, 3);
    snprintf(path, sizeof(path), "%s/%s.open", root, NAME);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "x", 1, 300), 1);
    close(fd);
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_DAMAGED);
    assert_int_equal(fault.what, SSMD_WHAT_CRC);
}

static void a_missing_file_is_damage(void **state)
{
    (void)state;
    char path[256];
    begin();
    append(1, 3);
    snprintf(path, sizeof(path), "%s/%s.open", root, NAME);
    unlink(path);
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_DAMAGED);
    assert_int_equal(fault.value, 0);
    assert_int_equal(fault.expected, 360);
}

static void a_committed_segment_with_its_sealed_name_is_done(void **state)
{
    (void)state;
    char path[256], other[264];
    begin();
    append(1, 3);
    ssmd_segment before = segment;
    ssmd_segment_seal(&segment, &FINAL, &fault);
    segment.day = before.day;
    segment.start_ns = before.start_ns;
    segment.first_number = before.first_number;
    segment.offset = before.offset;
    ssmd_segment again = segment;
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_EMPTY);
    assert_int_equal(segment.day, 0);
    snprintf(path, sizeof(path), "%s/%s", root, NAME);
    snprintf(other, sizeof(other), "%s.zst", path);
    rename(path, other); /* compressed meanwhile */
    segment.day = again.day;
    segment.start_ns = again.start_ns;
    segment.first_number = again.first_number;
    segment.offset = again.offset;
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_EMPTY);
}

/* Somebody may have read the checkpoint: what was in the file stays in it. */
static void a_checkpoint_that_was_not_committed_is_kept(void **state)
{
    (void)state;
    begin();
    append(1, 3);
    ssmd_segment before = segment;
    assert_int_equal(ssmd_segment_sync(&segment, &MARK, &fault), SSMD_OK);
    segment.offset = before.offset;
    segment.checkpoint_offset = before.checkpoint_offset;
    segment.crc32c = before.crc32c;
    reborn();
    fake.logged = 0;
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_OK);
    assert_memory_equal(fake.log, "ozrrwofcofcd", 12); /* no cut; names and data are synced */
    assert_int_equal(segment.offset, 360 + 136);
    assert_int_equal(segment.checkpoint_offset, 360 + 136);
    check(3, false);
}

static void a_final_checkpoint_that_was_not_committed_ends_in_a_seal(void **state)
{
    (void)state;
    begin();
    append(1, 3);
    fail_next('n', -EIO);
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_IO);
    assert_int_equal(size_of(NAME ".open"), 360 + 136);
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_EMPTY);
    assert_int_equal(size_of(NAME), 360 + 136);
    check(3, true);
}

static void a_checkpoint_of_something_else_is_cut(void **state)
{
    (void)state;
    ssmd_segment_mark other = MARK;
    other.max_connection++;
    begin();
    append(1, 3);
    fail_next('d', -EIO);
    assert_int_equal(ssmd_segment_sync(&segment, &other, &fault), SSMD_IO);
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_OK);
    assert_int_equal(segment.offset, 360);
    assert_int_equal(size_of(NAME ".open"), 360);
}

static void a_segment_that_was_named_but_not_made_is_made(void **state)
{
    (void)state;
    assert_int_equal(ssmd_segment_begin(&segment, DAY, START, 1, &fault), SSMD_OK);
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &MARK, &fault), SSMD_OK);
    assert_int_equal(append(1, 3), SSMD_OK);
    assert_int_equal(ssmd_segment_seal(&segment, &FINAL, &fault), SSMD_OK);
    check(3, true);
}

/* ---- blocks set aside ---------------------------------------------------------------------- */

static const ssmd_segment_mark LARGE = {
    .last_number = 60, .last_recv_ns = START + 60, .max_connection = 4, .final = true};

static uint64_t blocks_bytes(const char *name)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", root, name);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* 60 records in two spans, 20,880 bytes; the first makes the segment large. */
static void append_large(void)
{
    ops.reserve_bytes = 8192;
    begin();
    assert_int_equal(append(1, 40), SSMD_OK);
    assert_int_equal(append(41, 60), SSMD_OK);
    assert_int_equal(segment.offset, 20880);
}

static void a_large_segment_has_blocks_set_aside_that_nobody_sees(void **state)
{
    (void)state;
    append_large();
    assert_int_equal(size_of(NAME ".open"), 20880);
    assert_true(blocks_bytes(NAME ".open") >= 20880 + 8192);
}

static void a_seal_gives_back_what_was_set_aside(void **state)
{
    (void)state;
    append_large();
    assert_int_equal(ssmd_segment_seal(&segment, &LARGE, &fault), SSMD_OK);
    check(60, true);
    assert_true(blocks_bytes(NAME) <= 20880 + SSMD_CHECKPOINT_BYTES + 4096);
}

static void a_seal_gives_back_what_another_process_had_set_aside(void **state)
{
    (void)state;
    append_large();
    reborn();
    assert_int_equal(ssmd_segment_reopen(&segment, &LARGE, &fault), SSMD_OK);
    assert_int_equal(ssmd_segment_seal(&segment, &LARGE, &fault), SSMD_OK);
    check(60, true);
    assert_true(blocks_bytes(NAME) <= 20880 + SSMD_CHECKPOINT_BYTES + 4096);
}

static void a_small_segment_has_none(void **state)
{
    (void)state;
    ops.reserve_bytes = 8192;
    begin();
    assert_int_equal(append(1, 3), SSMD_OK);
    assert_int_equal(append(4, 6), SSMD_OK);
    assert_null(strchr(fake.log, 'v'));
}

static void where_none_can_be_had_it_is_asked_for_once_and_done_without(void **state)
{
    (void)state;
    ops.reserve_bytes = 4096;
    begin();
    fail_next('v', -EOPNOTSUPP);
    assert_int_equal(append(1, 40), SSMD_OK);
    assert_int_equal(append(41, 50), SSMD_OK);
    assert_int_equal(append(51, 60), SSMD_OK);
    assert_int_equal(fake.calls, 1);
    assert_int_equal(ssmd_segment_seal(&segment, &LARGE, &fault), SSMD_OK);
    check(60, true);
}

static void a_seal_that_cannot_give_back_is_repeated(void **state)
{
    (void)state;
    append_large();
    fail_next('t', -EIO);
    assert_int_equal(ssmd_segment_seal(&segment, &LARGE, &fault), SSMD_IO);
    assert_int_equal(fault.what, SSMD_WHAT_CUT);
    assert_int_equal(ssmd_segment_seal(&segment, &LARGE, &fault), SSMD_OK);
    check(60, true);
    assert_true(blocks_bytes(NAME) <= 20880 + SSMD_CHECKPOINT_BYTES + 4096);
}

#define SEGMENT_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SEGMENT_TEST(names_hold_day_second_and_first_number),
        SEGMENT_TEST(a_name_that_does_not_fit_is_no_name),
        SEGMENT_TEST(what_every_failure_is_called),
        SEGMENT_TEST(a_sealed_segment_is_its_records_and_a_final_checkpoint),
        SEGMENT_TEST(checkpoints_cover_what_came_since_the_one_before),
        SEGMENT_TEST(a_checkpoint_says_what_it_was_told),
        SEGMENT_TEST(short_writes_and_interruptions_are_gone_on_with),
        SEGMENT_TEST(a_write_that_fails_half_way_leaves_nothing_behind),
        SEGMENT_TEST(a_sync_covers_the_names_of_a_new_file_and_its_folder_once),
        SEGMENT_TEST(a_seal_renames_after_the_data_and_syncs_the_name_after_that),
        SEGMENT_TEST(after_a_failed_sync_the_bytes_are_written_again),
        SEGMENT_TEST(bytes_that_a_failed_sync_lost_are_not_called_durable),
        SEGMENT_TEST(every_single_failure_of_a_seal_can_be_repeated),
        SEGMENT_TEST(a_name_that_exists_in_any_form_is_refused),
        SEGMENT_TEST(a_seal_never_replaces_a_file),
        SEGMENT_TEST(what_was_not_committed_is_cut_and_written_again),
        SEGMENT_TEST(a_shorter_file_is_damage_and_stays_as_it_is),
        SEGMENT_TEST(other_bytes_are_damage),
        SEGMENT_TEST(a_missing_file_is_damage),
        SEGMENT_TEST(a_committed_segment_with_its_sealed_name_is_done),
        SEGMENT_TEST(a_checkpoint_that_was_not_committed_is_kept),
        SEGMENT_TEST(a_final_checkpoint_that_was_not_committed_ends_in_a_seal),
        SEGMENT_TEST(a_checkpoint_of_something_else_is_cut),
        SEGMENT_TEST(a_segment_that_was_named_but_not_made_is_made),
        SEGMENT_TEST(a_large_segment_has_blocks_set_aside_that_nobody_sees),
        SEGMENT_TEST(a_seal_gives_back_what_was_set_aside),
        SEGMENT_TEST(a_seal_gives_back_what_another_process_had_set_aside),
        SEGMENT_TEST(a_small_segment_has_none),
        SEGMENT_TEST(where_none_can_be_had_it_is_asked_for_once_and_done_without),
        SEGMENT_TEST(a_seal_that_cannot_give_back_is_repeated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
