/* test_sequence.c - the tracker against the rules of docs/records.md, "Gap records from sequence numbers". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../sequence.h"

static int new_tracker(void **state)
{
    *state = calloc(1, sizeof(ssmd_sequence));
    return *state == NULL;
}

static int free_tracker(void **state)
{
    free(*state);
    return 0;
}

static ssmd_sequence_look see(ssmd_sequence *sequence, uint32_t sid, uint64_t seq, int64_t recv_ns)
{
    ssmd_sequence_look look;
    ssmd_sequence_check(sequence, sid, seq, &look);
    ssmd_sequence_accept(sequence, &look, sid, seq, recv_ns);
    return look;
}

static void numbers_that_rise_by_one_are_fine_on_each_sid_alone(void **state)
{
    for (uint64_t seq = 1; seq < 5; seq++)
        for (uint32_t sid = 1; sid < 4; sid++)
            assert_int_equal(see(*state, sid, seq, 0).verdict, SSMD_SEQUENCE_FINE);
}

static void the_first_number_of_a_sid_has_to_be_one(void **state)
{
    ssmd_sequence_look look = see(*state, 7, 3, 10);
    assert_int_equal(look.verdict, SSMD_SEQUENCE_GAP);
    assert_int_equal(look.expected, 1);
    assert_int_equal(look.last_recv_ns, 0);
}

static void a_gap_tells_what_was_expected_and_when_all_was_well(void **state)
{
    see(*state, 1, 1, 100);
    see(*state, 1, 2, 200);
    ssmd_sequence_look look = see(*state, 1, 9, 300);
    assert_int_equal(look.verdict, SSMD_SEQUENCE_GAP);
    assert_int_equal(look.expected, 3);
    assert_int_equal(look.last_recv_ns, 200);
    assert_int_equal(see(*state, 1, 10, 400).verdict, SSMD_SEQUENCE_FINE);
}

/* One wrong number: a gap once, and then the numbers that were right all the time are followed as before. */
static void a_number_far_off_does_not_blind_us_for_those_that_follow(void **state)
{
    for (uint64_t seq = 1; seq < 10; seq++)
        see(*state, 1, seq, 100);
    ssmd_sequence_look look = see(*state, 1, 5000000000, 200);
    assert_int_equal(look.verdict, SSMD_SEQUENCE_GAP);
    assert_int_equal(look.expected, 10);
    assert_int_equal(see(*state, 1, 9, 250).verdict, SSMD_SEQUENCE_REPEAT);
    assert_int_equal(see(*state, 1, 10, 300).verdict, SSMD_SEQUENCE_FINE);
    assert_int_equal(see(*state, 1, 11, 300).verdict, SSMD_SEQUENCE_FINE);
    look = see(*state, 1, 15, 400);
    assert_int_equal(look.verdict, SSMD_SEQUENCE_GAP);
    assert_int_equal(look.expected, 12);
    assert_int_equal(see(*state, 1, UINT64_MAX, 500).verdict, SSMD_SEQUENCE_GAP);
    look = see(*state, 1, 18, 600);
    assert_int_equal(look.verdict, SSMD_SEQUENCE_GAP); /* 16 and 17 did not come */
    assert_int_equal(look.expected, 16);
    assert_int_equal(see(*state, 1, 19, 600).verdict, SSMD_SEQUENCE_FINE);
}

static void a_jump_that_is_gone_on_with_is_the_numbering_from_then_on(void **state)
{
    see(*state, 1, 1, 100);
    assert_int_equal(see(*state, 1, 2000000, 200).verdict, SSMD_SEQUENCE_GAP);
    assert_int_equal(see(*state, 1, 2000001, 200).verdict, SSMD_SEQUENCE_FINE);
    assert_int_equal(see(*state, 1, 2, 300).verdict, SSMD_SEQUENCE_REPEAT);
    assert_int_equal(see(*state, 1, 2000002, 300).verdict, SSMD_SEQUENCE_FINE);
}

static void a_first_number_far_off_does_not_blind_us_either(void **state)
{
    assert_int_equal(see(*state, 1, 1000001, 100).verdict, SSMD_SEQUENCE_GAP);
    assert_int_equal(see(*state, 1, 1, 100).verdict, SSMD_SEQUENCE_FINE);
    assert_int_equal(see(*state, 2, 1000000, 100).verdict, SSMD_SEQUENCE_GAP); /* one less: no such jump */
    assert_int_equal(see(*state, 2, 1, 100).verdict, SSMD_SEQUENCE_REPEAT);
}

static void a_repeat_does_not_move_the_expectation_back_but_counts_as_heard(void **state)
{
    see(*state, 1, 1, 100);
    see(*state, 1, 2, 200);
    ssmd_sequence_look repeat = see(*state, 1, 1, 300), next;
    assert_int_equal(repeat.verdict, SSMD_SEQUENCE_REPEAT);
    assert_int_equal(repeat.expected, 3);
    next = see(*state, 1, 3, 400);
    assert_int_equal(next.verdict, SSMD_SEQUENCE_FINE);
    assert_int_equal(next.last_recv_ns, 300);
}

static void looking_changes_nothing(void **state)
{
    ssmd_sequence_look look;
    for (int i = 0; i < 3; i++) {
        ssmd_sequence_check(*state, 5, 4, &look);
        assert_int_equal(look.verdict, SSMD_SEQUENCE_GAP);
        assert_int_equal(look.expected, 1);
    }
    assert_int_equal(((ssmd_sequence *)*state)->sids, 0);
}

static void frames_without_sid_or_number_are_not_tracked(void **state)
{
    assert_int_equal(see(*state, 0, 5, 1).verdict, SSMD_SEQUENCE_UNTRACKED);
    assert_int_equal(see(*state, 5, 0, 1).verdict, SSMD_SEQUENCE_UNTRACKED);
    assert_int_equal(see(*state, 5, 1, 2).last_recv_ns, 0);
}

/* Sids that meet in the table: multiples of its size, and the largest there is. */
static void sids_that_share_a_slot_are_kept_apart(void **state)
{
    static const uint32_t SIDS[] = {1,          1 + SSMD_SEQUENCE_SLOTS, 1 + 2 * SSMD_SEQUENCE_SLOTS, 2,
                                    UINT32_MAX, SSMD_SEQUENCE_SLOTS - 1};
    for (uint64_t seq = 1; seq < 4; seq++)
        for (size_t i = 0; i < sizeof SIDS / sizeof *SIDS; i++)
            assert_int_equal(see(*state, SIDS[i], seq, 0).verdict, SSMD_SEQUENCE_FINE);
}

static void the_sids_after_the_first_1024_are_not_tracked(void **state)
{
    for (uint32_t sid = 1; sid <= SSMD_SEQUENCE_SIDS; sid++)
        see(*state, sid * 3, 1, 0);
    assert_int_equal(see(*state, 1, 5, 0).verdict, SSMD_SEQUENCE_CROWDED);
    assert_int_equal(see(*state, 1, 0, 0).verdict, SSMD_SEQUENCE_UNTRACKED);
    assert_int_equal(see(*state, 3, 2, 0).verdict, SSMD_SEQUENCE_FINE);
    assert_int_equal(see(*state, SSMD_SEQUENCE_SIDS * 3, 4, 0).verdict, SSMD_SEQUENCE_GAP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(numbers_that_rise_by_one_are_fine_on_each_sid_alone, new_tracker, free_tracker),
        cmocka_unit_test_setup_teardown(the_first_number_of_a_sid_has_to_be_one, new_tracker, free_tracker),
        cmocka_unit_test_setup_teardown(a_gap_tells_what_was_expected_and_when_all_was_well, new_tracker, free_tracker),
        cmocka_unit_test_setup_teardown(a_repeat_does_not_move_the_expectation_back_but_counts_as_heard, new_tracker,
                                        free_tracker),
        cmocka_unit_test_setup_teardown(a_number_far_off_does_not_blind_us_for_those_that_follow, new_tracker,
                                        free_tracker),
        cmocka_unit_test_setup_teardown(a_jump_that_is_gone_on_with_is_the_numbering_from_then_on, new_tracker,
                                        free_tracker),
        cmocka_unit_test_setup_teardown(a_first_number_far_off_does_not_blind_us_either, new_tracker, free_tracker),
        cmocka_unit_test_setup_teardown(looking_changes_nothing, new_tracker, free_tracker),
        cmocka_unit_test_setup_teardown(frames_without_sid_or_number_are_not_tracked, new_tracker, free_tracker),
        cmocka_unit_test_setup_teardown(sids_that_share_a_slot_are_kept_apart, new_tracker, free_tracker),
        cmocka_unit_test_setup_teardown(the_sids_after_the_first_1024_are_not_tracked, new_tracker, free_tracker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
