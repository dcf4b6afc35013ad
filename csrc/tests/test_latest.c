/* test_latest.c - what was last seen of markets: many of them, forgotten and found again; all memory given back.
 *
 * What each record means is tested through its plain twin (tests/test_lastvalues.py); here is what only C can get
 * wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "latest.h"
#include "record_builder.h"

static const int64_t NS = 1790000000000000000;

/* Follows one record, which begins at an odd address: loads must not care. */
static int follow(ssmd_latest *latest, const builder *b, size_t n)
{
    uint8_t *at = malloc(n + 1);
    assert_non_null(at);
    memcpy(at + 1, (const uint8_t *)b->words, n);
    ssmd_view views[4];
    uint64_t count, used;
    int status = ssmd_latest_add(latest, at + 1, n, 0, views, 4, &count, &used);
    free(at);
    return status;
}

static int trade(ssmd_latest *latest, uint64_t number, const char *market, const char *id)
{
    builder b;
    builder_start(&b, SSMD_KIND_TRADE, 0, 0, 2, 2);
    builder_header(&b, number, NS + (int64_t)number, 1, 1, number);
    b.words[b.body] = 4700;
    b.words[b.body + 1] = 300;
    builder_text(&b, 0, market);
    if (id != NULL)
        builder_text(&b, 1, id);
    return follow(latest, &b, builder_end(&b));
}

static int snapshot(ssmd_latest *latest, uint64_t number, const char *market, uint32_t sid)
{
    static const int64_t bids[] = {4600, 5, 4000, 7}, asks[] = {5500, 9};
    builder b;
    builder_start(&b, SSMD_KIND_BOOK, 0, 0, 4, 3);
    builder_header(&b, number, NS + (int64_t)number, 1, sid, number);
    builder_text(&b, 0, market);
    builder_levels(&b, 1, bids, 2);
    builder_levels(&b, 2, asks, 1);
    return follow(latest, &b, builder_end(&b));
}

static ssmd_latest_state look(const ssmd_latest *latest)
{
    ssmd_latest_state state;
    ssmd_latest_look(latest, &state);
    return state;
}

static const char *name_of(char name[32], unsigned i)
{
    snprintf(name, 32, "M-%u", i);
    return name;
}

static void test_markets_are_forgotten_in_the_order_in_which_they_changed_and_the_others_are_found(void **state)
{
    (void)state;
    enum { LIMIT = 1000, ALL = 5000 };
    char name[32];
    ssmd_latest *latest = ssmd_latest_open(LIMIT);
    for (unsigned i = 0; i < ALL; i++)
        assert_int_equal(trade(latest, i + 1, name_of(name, i), "t"), SSMD_OK);
    assert_int_equal(look(latest).markets, LIMIT);
    ssmd_latest_done(latest, LIMIT, NS);
    assert_int_equal(look(latest).changed, 0);
    for (unsigned i = ALL - LIMIT; i < ALL; i++) /* none of these makes room: all are there already */
        assert_int_equal(trade(latest, ALL + i + 1, name_of(name, i), NULL), SSMD_OK);
    assert_int_equal(look(latest).markets, LIMIT);
    ssmd_last *out = calloc(LIMIT, sizeof *out);
    assert_int_equal(ssmd_latest_changed(latest, out, LIMIT), LIMIT);
    for (unsigned i = 0; i < LIMIT; i++) {
        assert_string_equal(out[i].market, name_of(name, ALL - LIMIT + i));
        assert_null(out[i].trade_id);
    }
    free(out);
    ssmd_latest_close(latest);
}

static void test_a_market_that_comes_back_is_another_one(void **state)
{
    (void)state;
    ssmd_latest *latest = ssmd_latest_open(1);
    ssmd_last before, after;
    trade(latest, 1, "A", "t-1");
    assert_int_equal(ssmd_latest_changed(latest, &before, 1), 1);
    uint64_t serial = before.serial;
    trade(latest, 2, "B", NULL);
    snapshot(latest, 3, "A", 2);
    assert_int_equal(ssmd_latest_changed(latest, &after, 1), 1);
    assert_string_equal(after.market, "A");
    assert_true(after.serial > serial);
    assert_int_equal(after.trade_number, 0);
    assert_int_equal(after.bid_e4, 4600);
    ssmd_latest_close(latest);
}

static void test_a_forgotten_market_leaves_the_list_of_its_channel(void **state)
{
    (void)state;
    ssmd_latest *latest = ssmd_latest_open(2);
    snapshot(latest, 1, "A", 7);
    snapshot(latest, 2, "B", 7);
    snapshot(latest, 3, "C", 7);
    ssmd_last out[3];
    assert_int_equal(ssmd_latest_books(latest, 1, 7, out, 3), 2);
    assert_string_equal(out[0].market, "B");
    assert_string_equal(out[1].market, "C");
    ssmd_latest_doubt(latest, SSMD_SYNC_DAMAGE);
    assert_int_equal(ssmd_latest_books(latest, 1, 7, NULL, 0), 0);
    assert_int_equal(ssmd_latest_changed(latest, out, 3), 2);
    assert_int_equal(out[0].sync, SSMD_SYNC_DAMAGE);
    assert_int_equal(out[0].was, 1);
    assert_int_equal(out[0].ask_e4, 5500);
    ssmd_latest_close(latest);
}

static void test_a_longer_trade_id_replaces_a_shorter_one_and_an_empty_one_is_none(void **state)
{
    (void)state;
    static const char *const ids[] = {"t", "t-1234567890123456789012345678901234567890", "u", NULL, "v"};
    ssmd_latest *latest = ssmd_latest_open(4);
    for (unsigned i = 0; i < sizeof ids / sizeof *ids; i++) {
        ssmd_last out;
        assert_int_equal(trade(latest, i + 1, "A", ids[i]), SSMD_OK);
        assert_int_equal(ssmd_latest_changed(latest, &out, 1), 1);
        if (ids[i] == NULL) {
            assert_null(out.trade_id);
            continue;
        }
        assert_int_equal(out.trade_id_bytes, strlen(ids[i]));
        assert_memory_equal(out.trade_id, ids[i], out.trade_id_bytes);
    }
    ssmd_latest_close(latest);
}

static void test_bytes_that_are_no_record_are_refused_and_nothing_is_lost_by_it(void **state)
{
    (void)state;
    ssmd_latest *latest = ssmd_latest_open(4);
    trade(latest, 1, "A", "t");
    ssmd_view view;
    uint64_t count, used;
    static const uint8_t zeros[96];
    assert_int_equal(ssmd_latest_add(latest, zeros, sizeof zeros, 0, &view, 1, &count, &used), SSMD_DAMAGED);
    assert_int_equal(used, 0);
    assert_int_equal(look(latest).number, 1);
    ssmd_latest_close(latest);
    ssmd_latest_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_markets_are_forgotten_in_the_order_in_which_they_changed_and_the_others_are_found),
        cmocka_unit_test(test_a_market_that_comes_back_is_another_one),
        cmocka_unit_test(test_a_forgotten_market_leaves_the_list_of_its_channel),
        cmocka_unit_test(test_a_longer_trade_id_replaces_a_shorter_one_and_an_empty_one_is_none),
        cmocka_unit_test(test_bytes_that_are_no_record_are_refused_and_nothing_is_lost_by_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
