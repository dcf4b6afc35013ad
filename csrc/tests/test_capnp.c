/* test_capnp.c - the record writer, read back by rules that know nothing of it (record_check.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../capnp.h"
#include "guard.h"
#include "record_check.h"

static const ssmd_record_header HEADER = {.number = 0x0102030405060708,
                                          .recv_ns = -2,
                                          .recv_ticks = 0x1112131415161718,
                                          .exchange_ns = 3,
                                          .sent_ns = -4,
                                          .connection = 0xA1A2A3A4,
                                          .sid = 0xB1B2B3B4,
                                          .seq = 0xC1C2C3C4C5C6C7C8};

/* Offsets as in the picture of capnp.h, which are those of ssmd.h. */
static void the_header_stands_where_ssmd_h_says(void **state)
{
    (void)state;
    uint8_t record[512];
    ssmd_record_builder builder;
    record_view view;
    memset(record, 0xEE, sizeof record);
    ssmd_record_begin(&builder, record, SSMD_KIND_TRADE, &HEADER);
    size_t n = ssmd_record_end(&builder, (ssmd_text){NULL, 0});
    assert_true(record_check(record, n, &view));
    assert_int_equal(n, 96 + 8 * 4);
    assert_int_equal(get64(record + 16), 0x0102030405060708);
    assert_int_equal((int64_t)get64(record + 24), -2);
    assert_int_equal(get64(record + 32), 0x1112131415161718);
    assert_int_equal(get64(record + 40), 3);
    assert_int_equal((int64_t)get64(record + 48), -4);
    assert_int_equal(get32(record + 56), 0xA1A2A3A4);
    assert_int_equal(get32(record + 60), 0xB1B2B3B4);
    assert_int_equal(get64(record + 64), 0xC1C2C3C4C5C6C7C8);
    assert_int_equal(get16(record + 72), 1);
    assert_null(view.frame);
}

static void every_kind_has_the_room_that_the_schema_gives_it(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < SSMD_KIND_COUNT; kind++) {
        assert_int_equal(SSMD_BODY_LAYOUTS[kind].words, BODY_SHAPES[kind][0]);
        assert_int_equal(SSMD_BODY_LAYOUTS[kind].pointers, BODY_SHAPES[kind][1]);
        uint8_t record[512];
        ssmd_record_builder builder;
        record_view view;
        memset(record, 0xEE, sizeof record);
        ssmd_record_begin(&builder, record, (ssmd_kind)kind, &HEADER);
        size_t n = ssmd_record_end(&builder, (ssmd_text){NULL, 0});
        assert_true(record_check(record, n, &view));
        assert_int_equal(n, ssmd_fixed_bytes((ssmd_kind)kind));
        for (unsigned i = 0; i < view.words; i++)
            assert_int_equal(get64(view.data + 8 * i), 0);
    }
}

/* Texts and frames of every length, copied from and to the edge of memory. */
static void texts_and_frames_of_every_length_are_padded_with_zeros(void **state)
{
    (void)state;
    guarded from = guard_open(4096), to = guard_open(4096);
    uint8_t letters[100];
    for (size_t i = 0; i < sizeof letters; i++)
        letters[i] = (uint8_t)('A' + i % 26);
    for (size_t text_bytes = 0; text_bytes < 50; text_bytes++)
        for (size_t frame_bytes = 0; frame_bytes < 20; frame_bytes++) {
            ssmd_text text = {guard_copy(&from, letters, text_bytes), text_bytes};
            size_t n = ssmd_fixed_bytes(SSMD_KIND_TICKER) + ssmd_text_bytes(text_bytes) + ssmd_data_bytes(frame_bytes);
            uint8_t *record = to.end - n;
            memset(record, 0xEE, n);
            ssmd_record_builder builder;
            record_view view;
            ssmd_record_begin(&builder, record, SSMD_KIND_TICKER, &HEADER);
            ssmd_record_text(&builder, 0, text);
            text.at = guard_copy(&from, letters, frame_bytes);
            text.n = frame_bytes;
            assert_int_equal(ssmd_record_end(&builder, text), n);
            assert_true(record_check(record, n, &view));
            letters[text_bytes] = 0;
            assert_true(text_equals(&view, 0, (const char *)letters));
            letters[text_bytes] = (uint8_t)('A' + text_bytes % 26);
            assert_int_equal(view.frame_bytes, frame_bytes);
            assert_memory_equal(view.frame == NULL ? letters : view.frame, letters, frame_bytes);
        }
    guard_close(&from);
    guard_close(&to);
}

static void lists_of_levels_have_a_tag_and_two_words_a_level(void **state)
{
    (void)state;
    uint8_t record[512];
    ssmd_record_builder builder;
    record_view view;
    memset(record, 0xEE, sizeof record);
    ssmd_record_begin(&builder, record, SSMD_KIND_BOOK, &HEADER);
    uint8_t *level = ssmd_record_levels(&builder, 2, 2);
    memset(level, 0, 2 * SSMD_LEVEL_BYTES);
    ssmd_store32i(level + SSMD_LEVEL_BYTES, -7);
    ssmd_store64i(level + SSMD_LEVEL_BYTES + 8, 9);
    size_t n = ssmd_record_end(&builder, (ssmd_text){NULL, 0});
    assert_true(record_check(record, n, &view));
    assert_int_equal(n, ssmd_fixed_bytes(SSMD_KIND_BOOK) + ssmd_levels_bytes(2));
    assert_int_equal(get64(view.pointers + 8), 0);
    const uint8_t *list = pointer_target(view.pointers + 16);
    assert_int_equal((int32_t)get32(list + 8 + 16), -7);
    assert_int_equal(get64(list + 8 + 24), 9);
}

static void a_gap_record_says_everything_it_was_given(void **state)
{
    (void)state;
    uint8_t record[512];
    record_view view;
    ssmd_gap gap = {.cause = SSMD_GAP_FRAME_TOO_LARGE,
                    .from_seq = 5,
                    .to_seq = 9,
                    .from_ns = 100,
                    .to_ns = -1,
                    .length_bytes = 1u << 30,
                    .head = {(const uint8_t *)"{\"type\":", 8}};
    size_t n = ssmd_gap_write(record, &HEADER, &gap);
    assert_int_equal(n, ssmd_gap_bytes(&gap));
    assert_true(record_check(record, n, &view));
    assert_int_equal(view.kind, 7);
    assert_int_equal(get16(view.data), 6);
    assert_int_equal(get64(view.data + 8), 5);
    assert_int_equal(get64(view.data + 16), 9);
    assert_int_equal(get64(view.data + 24), 100);
    assert_int_equal((int64_t)get64(view.data + 32), -1);
    assert_int_equal(get64(view.data + 40), 1u << 30);
    assert_memory_equal(pointer_target(view.pointers), "{\"type\":", 8);
    assert_int_equal(get64(view.pointers + 8), 0);
}

static void bytes_that_are_not_one_record_are_told_apart(void **state)
{
    (void)state;
    uint8_t record[512] = {0};
    ssmd_gap gap = {.cause = SSMD_GAP_SEQUENCE};
    size_t n = ssmd_gap_write(record, &HEADER, &gap);
    assert_true(ssmd_record_is_framed(record, n));
    for (size_t shorter = 0; shorter < n; shorter++)
        assert_false(ssmd_record_is_framed(record, shorter));
    assert_false(ssmd_record_is_framed(record, n + 8));
    record[0] = 1; /* two segments */
    assert_false(ssmd_record_is_framed(record, n));
    record[0] = 0;
    record[12] = 7; /* a root of another shape */
    assert_false(ssmd_record_is_framed(record, n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_stands_where_ssmd_h_says),
        cmocka_unit_test(every_kind_has_the_room_that_the_schema_gives_it),
        cmocka_unit_test(texts_and_frames_of_every_length_are_padded_with_zeros),
        cmocka_unit_test(lists_of_levels_have_a_tag_and_two_words_a_level),
        cmocka_unit_test(a_gap_record_says_everything_it_was_given),
        cmocka_unit_test(bytes_that_are_not_one_record_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
