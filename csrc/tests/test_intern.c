/* test_intern.c - the interner against a plain list, at its limits, and read by threads while it grows. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../intern.h"
#include "guard.h"

static const uint8_t *bytes(const char *text)
{
    return (const uint8_t *)text;
}

static uint32_t intern(ssmd_interner *interner, const char *name)
{
    return ssmd_intern(interner, bytes(name), strlen(name));
}

static int new_interner(void **state)
{
    ssmd_interner *interner;
    int status = ssmd_interner_open(0, &interner);
    *state = interner;
    return status;
}

static int close_interner(void **state)
{
    ssmd_interner_close(*state);
    return 0;
}

static void ids_count_up_from_one_and_stay(void **state)
{
    assert_int_equal(intern(*state, "KXA"), 1);
    assert_int_equal(intern(*state, "KXB"), 2);
    assert_int_equal(intern(*state, "KXA"), 1);
    assert_int_equal(ssmd_interner_count(*state), 2);
}

static void a_name_comes_back_by_its_id(void **state)
{
    size_t n = 0;
    uint32_t id = intern(*state, "KXBTC-26SEP2516-B74250");
    const uint8_t *name = ssmd_resolve(*state, id, &n);
    assert_int_equal(n, 22);
    assert_memory_equal(name, "KXBTC-26SEP2516-B74250", 22);
}

static void an_id_that_was_never_given_has_no_name(void **state)
{
    size_t n;
    intern(*state, "one");
    assert_null(ssmd_resolve(*state, 0, &n));
    assert_null(ssmd_resolve(*state, 2, &n));
    assert_null(ssmd_resolve(*state, UINT32_MAX, &n));
}

static void finding_gives_no_new_ids(void **state)
{
    assert_int_equal(ssmd_interner_find(*state, bytes("x"), 1), 0);
    assert_int_equal(intern(*state, "x"), 1);
    assert_int_equal(ssmd_interner_find(*state, bytes("x"), 1), 1);
    assert_int_equal(ssmd_interner_count(*state), 1);
}

/* Names of every length, each read up to a guard page; prefixes of each other, so that length matters. */
static void names_of_every_length_are_told_apart(void **state)
{
    guarded guard = guard_open(4096);
    uint8_t name[SSMD_INTERN_MAX_BYTES];
    memset(name, 'a', sizeof name);
    for (int round = 0; round < 2; round++)
        for (uint32_t n = 1; n <= SSMD_INTERN_MAX_BYTES; n++)
            assert_int_equal(ssmd_intern(*state, guard_copy(&guard, name, n), n), n);
    guard_close(&guard);
}

static void names_that_are_empty_or_too_long_get_no_id_and_are_counted(void **state)
{
    uint8_t name[SSMD_INTERN_MAX_BYTES + 1];
    memset(name, 'a', sizeof name);
    assert_int_equal(ssmd_intern(*state, name, 0), 0);
    assert_int_equal(ssmd_intern(*state, name, sizeof name), 0);
    assert_int_equal(ssmd_interner_refused(*state), 2);
    assert_int_equal(ssmd_interner_count(*state), 0);
}

enum { MANY = 20000 };

static int name_of(char *to, uint32_t i)
{
    return sprintf(to, "KX%u-T%u.99", i % 97, i);
}

/* Enough for several tables, chunks and blocks of names: all ids and pointers stay what they were. */
static void growing_moves_nothing(void **state)
{
    static const uint8_t *first_at[MANY + 1];
    char name[64];
    size_t n;
    for (uint32_t i = 1; i <= MANY; i++) {
        size_t length = (size_t)name_of(name, i);
        assert_int_equal(ssmd_intern(*state, bytes(name), length), i);
        first_at[i] = ssmd_resolve(*state, i, &n);
    }
    for (uint32_t i = 1; i <= MANY; i++) {
        size_t length = (size_t)name_of(name, i);
        assert_int_equal(ssmd_interner_find(*state, bytes(name), length), i);
        assert_ptr_equal(ssmd_resolve(*state, i, &n), first_at[i]);
        assert_int_equal(n, length);
        assert_memory_equal(first_at[i], name, length);
    }
}

static void a_full_interner_knows_old_names_and_refuses_new_ones(void **state)
{
    (void)state;
    ssmd_interner *interner;
    assert_int_equal(ssmd_interner_open(2, &interner), SSMD_OK);
    intern(interner, "a");
    intern(interner, "b");
    assert_int_equal(intern(interner, "c"), 0);
    assert_int_equal(intern(interner, "b"), 2);
    assert_int_equal(ssmd_interner_refused(interner), 1);
    ssmd_interner_close(interner);
    assert_int_equal(ssmd_interner_open(SSMD_INTERN_MAX_NAMES + 1, &interner), SSMD_INVALID);
}

static void activity_counts_records_and_keeps_the_last(void **state)
{
    ssmd_activity activity;
    uint32_t id = intern(*state, "KXA");
    assert_int_equal(ssmd_interner_activity(*state, id, &activity), SSMD_OK);
    assert_int_equal(activity.records, 0);
    ssmd_interner_note(*state, id, 100, 7);
    ssmd_interner_note(*state, id, 200, 9);
    ssmd_interner_note(*state, 0, 300, 10);
    ssmd_interner_activity(*state, id, &activity);
    assert_int_equal(activity.records, 2);
    assert_int_equal(activity.last_recv_ns, 200);
    assert_int_equal(activity.last_number, 9);
    assert_int_equal(ssmd_interner_activity(*state, id + 1, &activity), SSMD_INVALID);
}

typedef struct race {
    ssmd_interner *interner;
    _Atomic bool over;
    _Atomic uint32_t wrong;
} race;

/* Every id up to the count has a whole name; under that name nothing else is found (nothing at all for a moment). */
static void *read_all(void *at)
{
    race *of = at;
    while (!atomic_load(&of->over)) {
        uint32_t count = ssmd_interner_count(of->interner);
        for (uint32_t id = count > 200 ? count - 200 : 1; id <= count; id++) {
            size_t n;
            const uint8_t *name = ssmd_resolve(of->interner, id, &n);
            uint32_t found = name == NULL ? UINT32_MAX : ssmd_interner_find(of->interner, name, n);
            if (found != id && found != 0)
                atomic_fetch_add(&of->wrong, 1);
        }
    }
    return NULL;
}

static void *add_all(void *at)
{
    race *of = at;
    char name[64];
    for (uint32_t i = 1; i <= MANY; i++) {
        size_t n = (size_t)name_of(name, i);
        uint32_t id = ssmd_intern(of->interner, bytes(name), n);
        size_t kept;
        if (id == 0 || ssmd_resolve(of->interner, id, &kept) == NULL || kept != n)
            atomic_fetch_add(&of->wrong, 1);
    }
    return NULL;
}

static void readers_never_see_half_a_name_and_two_adders_agree(void **state)
{
    race of = {.interner = *state};
    pthread_t reader, adders[2];
    pthread_create(&reader, NULL, read_all, &of);
    pthread_create(&adders[0], NULL, add_all, &of);
    pthread_create(&adders[1], NULL, add_all, &of);
    pthread_join(adders[0], NULL);
    pthread_join(adders[1], NULL);
    atomic_store(&of.over, true);
    pthread_join(reader, NULL);
    assert_int_equal(of.wrong, 0);
    assert_int_equal(ssmd_interner_count(*state), MANY);
}

static void the_interner_of_the_process_is_one(void **state)
{
    (void)state;
    assert_non_null(ssmd_interner_of_process());
    assert_ptr_equal(ssmd_interner_of_process(), ssmd_interner_of_process());
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, new_interner, close_interner)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ids_count_up_from_one_and_stay),
        TEST(a_name_comes_back_by_its_id),
        TEST(an_id_that_was_never_given_has_no_name),
        TEST(finding_gives_no_new_ids),
        TEST(names_of_every_length_are_told_apart),
        TEST(names_that_are_empty_or_too_long_get_no_id_and_are_counted),
        TEST(growing_moves_nothing),
        TEST(a_full_interner_knows_old_names_and_refuses_new_ones),
        TEST(activity_counts_records_and_keeps_the_last),
        TEST(readers_never_see_half_a_name_and_two_adders_agree),
        TEST(the_interner_of_the_process_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
