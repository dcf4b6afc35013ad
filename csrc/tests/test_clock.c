/* test_clock.c - conversion by literals; the live clock only by what must hold whatever the machine does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "clock.h"

#define SECOND INT64_C(1000000000)
#define HALF_NS (UINT64_C(1) << 31) /* a tick of half a nanosecond, 32.32 */

static void ticks_after_the_anchor_are_later_by_the_rate(void **state)
{
    (void)state;
    ssmd_clock_anchor anchor = {.ticks = 1000, .wall_ns = 5 * SECOND, .ns_per_tick_q32 = HALF_NS};
    assert_int_equal(ssmd_clock_anchor_ns(&anchor, 1000), 5 * SECOND);
    assert_int_equal(ssmd_clock_anchor_ns(&anchor, 3000), 5 * SECOND + 1000);
}

static void ticks_before_the_anchor_are_earlier(void **state)
{
    (void)state;
    ssmd_clock_anchor anchor = {.ticks = 1000, .wall_ns = 5 * SECOND, .ns_per_tick_q32 = HALF_NS};
    assert_int_equal(ssmd_clock_anchor_ns(&anchor, 0), 5 * SECOND - 500);
}

static void ten_years_of_ticks_do_not_overflow(void **state)
{
    (void)state;
    uint64_t ten_years = UINT64_C(315360000) * 4000000000u; /* at 4 GHz */
    ssmd_clock_anchor anchor = {.ticks = 7, .wall_ns = 0, .ns_per_tick_q32 = UINT64_C(1) << 30};
    assert_int_equal(ssmd_clock_anchor_ns(&anchor, 7 + ten_years), INT64_C(315360000) * SECOND);
}

static void the_counter_wrapping_past_zero_is_harmless(void **state)
{
    (void)state;
    ssmd_clock_anchor anchor = {.ticks = UINT64_MAX - 9, .wall_ns = 100, .ns_per_tick_q32 = UINT64_C(1) << 32};
    assert_int_equal(ssmd_clock_anchor_ns(&anchor, 10), 120);
}

static void ticks_do_not_go_back_in_a_thread(void **state)
{
    (void)state;
    uint64_t last = ssmd_clock_ticks();
    for (int i = 0; i < 100000; i++) {
        uint64_t now = ssmd_clock_ticks();
        assert_true((int64_t)(now - last) >= 0);
        last = now;
    }
}

static void the_last_reading_is_the_anchor_of_the_process(void **state)
{
    (void)state;
    ssmd_clock_anchor taken, current;
    ssmd_clock_anchor_read(&taken);
    ssmd_clock_anchor_current(&current);
    assert_memory_equal(&taken, &current, sizeof(taken));
    assert_int_equal(ssmd_clock_ticks_to_ns(taken.ticks), taken.wall_ns);
    assert_int_equal(taken.source, ssmd_clock_source_in_use);
}

static void a_stamp_agrees_with_the_system_clock(void **state)
{
    (void)state;
    uint64_t ticks;
    int64_t before = ssmd_clock_wall_ns();
    int64_t stamp = ssmd_clock_stamp(&ticks);
    int64_t after = ssmd_clock_wall_ns();
    assert_true(stamp > before - SECOND / 10 && stamp < after + SECOND / 10);
    assert_true(llabs(ssmd_clock_ticks_to_ns(ticks) - stamp) < SECOND / 10);
}

static void the_fallback_counts_nanoseconds(void **state)
{
    (void)state;
    int chosen = ssmd_clock_source_in_use;
    ssmd_clock_source_in_use = SSMD_CLOCK_MONOTONIC;
    int64_t before = ssmd_clock_monotonic_ns();
    uint64_t ticks = ssmd_clock_ticks();
    int64_t after = ssmd_clock_monotonic_ns();
    ssmd_clock_anchor anchor;
    ssmd_clock_anchor_read(&anchor);
    ssmd_clock_source_in_use = chosen;
    assert_true((int64_t)ticks >= before && (int64_t)ticks <= after);
    assert_int_equal(anchor.ns_per_tick_q32, UINT64_C(1) << 32);
    ssmd_clock_anchor_read(&anchor); /* leaves the process with an anchor of the real counter */
}

static _Atomic bool ended;

static void *convert(void *unused)
{
    (void)unused;
    uint64_t ticks = ssmd_clock_ticks();
    int64_t first = ssmd_clock_ticks_to_ns(ticks);
    intptr_t wrong = 0;
    while (!atomic_load(&ended))
        wrong += llabs(ssmd_clock_ticks_to_ns(ticks) - first) > SECOND / 10;
    return (void *)wrong;
}

static void threads_never_see_half_an_anchor(void **state)
{
    (void)state;
    pthread_t thread;
    ssmd_clock_anchor anchor;
    void *wrong;
    ssmd_clock_anchor_read(&anchor);
    atomic_store(&ended, false);
    assert_int_equal(pthread_create(&thread, NULL, convert, NULL), 0);
    for (int i = 0; i < 2000; i++)
        ssmd_clock_anchor_read(&anchor);
    atomic_store(&ended, true);
    pthread_join(thread, &wrong);
    assert_null(wrong);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks_after_the_anchor_are_later_by_the_rate),
        cmocka_unit_test(ticks_before_the_anchor_are_earlier),
        cmocka_unit_test(ten_years_of_ticks_do_not_overflow),
        cmocka_unit_test(the_counter_wrapping_past_zero_is_harmless),
        cmocka_unit_test(ticks_do_not_go_back_in_a_thread),
        cmocka_unit_test(the_last_reading_is_the_anchor_of_the_process),
        cmocka_unit_test(a_stamp_agrees_with_the_system_clock),
        cmocka_unit_test(the_fallback_counts_nanoseconds),
        cmocka_unit_test(threads_never_see_half_an_anchor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
