/* test_kalshi.c - frames written by hand from the protocol sheet, and the fields that docs/records.md makes of them.
 *
 * The byte-for-byte comparison with the plain Python twin is tests/test_wire.py; here stand the facts, the order of
 * reasons, keys in any order, and frames that end at a guard page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../kalshi.h"
#include "guard.h"
#include "record_check.h"

enum { YES = SSMD_FRAME_USE_YES_PRICE, KEEP = SSMD_FRAME_KEEP, BINARY = SSMD_FRAME_BINARY };

static uint8_t record[1 << 16];
static record_view view;

/* Normalizes a frame and reads the record back. */
static void take_bytes(const void *frame, size_t n, uint32_t flags, uint64_t limit)
{
    ssmd_frame_meta meta = {
        .number = 11, .recv_ns = 22, .recv_ticks = 33, .connection = 44, .flags = flags, .limit_bytes = limit};
    size_t written;
    assert_int_equal(ssmd_normalize(frame, n, &meta, record, sizeof record, &written), SSMD_OK);
    assert_true(record_check(record, written, &view));
    assert_int_equal(get64(record + 16), 11);
    assert_int_equal(get64(record + 24), 22);
    assert_int_equal(get64(record + 32), 33);
    assert_int_equal(get32(record + 56), 44);
    if (n > 0 && ((flags & KEEP) != 0 || view.kind == SSMD_KIND_UNPARSED)) {
        assert_int_equal(view.frame_bytes, n);
        assert_memory_equal(view.frame, frame, n);
    } else {
        assert_null(view.frame);
    }
}

static void take(const char *frame)
{
    take_bytes(frame, strlen(frame), YES | KEEP, 0);
}

static uint32_t sid(void)
{
    return get32(record + 60);
}
static uint64_t seq(void)
{
    return get64(record + 64);
}
static int64_t exchange_ns(void)
{
    return (int64_t)get64(record + 40);
}
static int64_t sent_ns(void)
{
    return (int64_t)get64(record + 48);
}
static int32_t i32(unsigned at)
{
    return (int32_t)get32(view.data + at);
}
static int64_t i64(unsigned at)
{
    return (int64_t)get64(view.data + at);
}
static uint16_t u16(unsigned at)
{
    return get16(view.data + at);
}
static bool says(unsigned index, const char *word)
{
    return text_equals(&view, index, word);
}

static void expect_unparsed(const char *frame, ssmd_reason reason, const char *type)
{
    take(frame);
    if (view.kind != SSMD_KIND_UNPARSED || u16(0) != reason || !says(0, type))
        fail_msg("kind %d, reason %d: %s", view.kind, u16(0), frame);
    assert_int_equal(exchange_ns(), 0);
}

/* ---- each type, each format --------------------------------------------------------------- */

static void a_trade_of_the_new_format(void **state)
{
    (void)state;
    take("{\"type\":\"trade\",\"sid\":2,\"seq\":5,\"msg\":{\"trade_id\":\"0723be0d-f459\",\"market_ticker\":\"KXA-T8."
         "9\","
         "\"yes_price_dollars\":\"0.9840\",\"no_price_dollars\":\"0.0160\",\"count_fp\":\"148.78\",\"taker_side\":"
         "\"yes\","
         "\"taker_outcome_side\":\"no\",\"taker_book_side\":\"ask\",\"is_block_trade\":true,\"ts\":1790363592,"
         "\"ts_ms\":1790363592101},\"sending_ts_ms\":1790363592104}\n");
    assert_int_equal(view.kind, SSMD_KIND_TRADE);
    assert_int_equal(sid(), 2);
    assert_int_equal(seq(), 5);
    assert_int_equal(exchange_ns(), 1790363592101000000);
    assert_int_equal(sent_ns(), 1790363592104000000);
    assert_true(says(0, "KXA-T8.9"));
    assert_true(says(1, "0723be0d-f459"));
    assert_int_equal(i32(0), 9840);
    assert_int_equal(u16(4), 2); /* taker_outcome_side comes before taker_side */
    assert_int_equal(view.data[6], 1);
    assert_int_equal(i64(8), 14878);
}

static void a_trade_of_the_old_format(void **state)
{
    (void)state;
    take("{\"type\":\"trade\",\"sid\":1,\"seq\":16,\"msg\":{\"trade_id\":\"5b02\",\"market_ticker\":\"KXB\",\"yes_"
         "price\":27,"
         "\"no_price\":73,\"count\":7,\"taker_side\":\"yes\",\"ts\":1759350609}}");
    assert_int_equal(view.kind, SSMD_KIND_TRADE);
    assert_int_equal(i32(0), 2700);
    assert_int_equal(i64(8), 700);
    assert_int_equal(u16(4), 1);
    assert_int_equal(view.data[6], 0);
    assert_int_equal(exchange_ns(), 1759350609000000000);
    assert_int_equal(sent_ns(), 0);
}

static void a_ticker_of_the_new_format(void **state)
{
    (void)state;
    take("{\"type\":\"ticker\",\"sid\":3,\"msg\":{\"market_id\":\"7469\",\"market_ticker\":\"KXA-T83399.99\",\"price_"
         "dollars\":"
         "\"0.9900\",\"yes_bid_dollars\":\"0.0000\",\"yes_ask_dollars\":\"1.0000\",\"volume_fp\":\"7950.52\","
         "\"open_interest_fp\":\"7333.62\",\"dollar_volume\":-3975,\"dollar_open_interest\":3666,\"yes_bid_size_fp\":"
         "\"1046.00\",\"yes_ask_size_fp\":\"0.00\",\"last_trade_size_fp\":\"0.99\",\"ts\":1790363592,\"ts_ms\":"
         "1790363592125,"
         "\"time\":\"2026-09-25T19:13:12.125735Z\"}}");
    assert_int_equal(view.kind, SSMD_KIND_TICKER);
    assert_int_equal(sid(), 3);
    assert_int_equal(seq(), 0);
    assert_true(says(0, "KXA-T83399.99"));
    assert_int_equal(get32(view.data), 0xFFC); /* ordinals 2 to 11 */
    assert_int_equal(i32(4), 9900);
    assert_int_equal(i32(8), 0);
    assert_int_equal(i32(12), 10000);
    assert_int_equal(i64(16), 795052);
    assert_int_equal(i64(24), 733362);
    assert_int_equal(i64(32), -3975);
    assert_int_equal(i64(40), 3666);
    assert_int_equal(i64(48), 104600);
    assert_int_equal(i64(56), 0);
    assert_int_equal(i64(64), 99);
    assert_int_equal(exchange_ns(), 1790363592125000000);
}

static void a_ticker_of_the_old_format_that_was_never_traded(void **state)
{
    (void)state;
    take("{\"type\":\"ticker\",\"sid\":1,\"msg\":{\"market_id\":\"2ee2\",\"market_ticker\":\"KXR\",\"price\":0,\"yes_"
         "bid\":11,"
         "\"yes_ask\":12,\"price_dollars\":\"\",\"yes_bid_dollars\":\"0.1100\",\"volume\":351970,\"open_interest\":"
         "182646,"
         "\"dollar_volume\":1.5,\"ts\":1732579880,\"Clock\":6598272994}}");
    assert_int_equal(view.kind, SSMD_KIND_TICKER);
    /* price (from cents), bid, ask, volume, interest; dollar_volume is malformed, which is lenient: absent */
    assert_int_equal(get32(view.data), 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6);
    assert_int_equal(i32(4), 0);
    assert_int_equal(i32(8), 1100);
    assert_int_equal(i32(12), 1200);
    assert_int_equal(i64(16), 35197000);
    assert_int_equal(i64(24), 18264600);
    assert_int_equal(i64(32), 0);
    assert_int_equal(exchange_ns(), 1732579880000000000);
}

static const char DELTA_NO[] = "{\"type\":\"orderbook_delta\",\"sid\":1,\"seq\":41076,\"msg\":{\"market_ticker\":\"KXC-"
                               "B74250\",\"market_id\":\"ef0c\","
                               "\"price_dollars\":\"0.9600\",\"delta_fp\":\"-2.00\",\"side\":\"no\",\"ts\":\"2026-09-"
                               "25T19:13:44.342537Z\",\"ts_ms\":"
                               "1790363624342}}";

static void a_delta_of_the_new_format_on_the_yes_scale(void **state)
{
    (void)state;
    take(DELTA_NO);
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    assert_true(says(0, "KXC-B74250"));
    assert_int_equal(u16(0), 1);
    assert_int_equal(u16(2), 2); /* no = ask */
    assert_int_equal(view.data[4], 1);
    assert_int_equal(i32(8), 9600);
    assert_int_equal(i64(16), -200);
    assert_int_equal(i64(24), 0);
    assert_int_equal(exchange_ns(), 1790363624342537000);
}

static void a_delta_on_the_no_sides_own_scale_is_turned(void **state)
{
    (void)state;
    take_bytes(DELTA_NO, sizeof DELTA_NO - 1, KEEP, 0);
    assert_int_equal(view.data[4], 0);
    assert_int_equal(i32(8), 400);
    take(
        "{\"type\":\"orderbook_delta\",\"sid\":2,\"seq\":3,\"msg\":{\"market_ticker\":\"K\",\"price\":96,\"delta\":-54,"
        "\"side\":\"no\",\"ts\":\"2025-12-01T20:44:01.5Z\"}}"); /* old format: the mode does not apply */
    assert_int_equal(view.data[4], 0);
    assert_int_equal(i32(8), 400);
    assert_int_equal(i64(16), -5400);
    assert_int_equal(exchange_ns(), 1764621841500000000);
}

static void a_snapshot_of_the_new_format(void **state)
{
    (void)state;
    take("{\"type\":\"orderbook_snapshot\",\"id\":9,\"sid\":1,\"seq\":102,\"msg\":{\"market_ticker\":\"KXB\",\"market_"
         "id\":\"64e9\","
         "\"yes_dollars_fp\":[[\"0.0100\",\"80.00\"],[\"0.3300\",\"30.00\"]],\"no_dollars_fp\":[[\"0.9900\",\"130.12\"]"
         "]}}");
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    assert_int_equal(u16(0), 0);
    assert_int_equal(view.data[4], 1);
    assert_int_equal(i64(24), 9);
    const uint8_t *bids = pointer_target(view.pointers + 8) + 8, *asks = pointer_target(view.pointers + 16) + 8;
    assert_int_equal(get64(view.pointers + 8) >> 36, 2);
    assert_int_equal(get64(view.pointers + 16) >> 36, 1);
    assert_int_equal(get32(bids), 100);
    assert_int_equal(get64(bids + 8), 8000);
    assert_int_equal(get32(bids + 16), 3300);
    assert_int_equal(get64(bids + 24), 3000);
    assert_int_equal(get32(asks), 9900);
    assert_int_equal(get64(asks + 8), 13012);
}

static void a_snapshot_of_the_old_format_with_the_no_side_turned(void **state)
{
    (void)state;
    take("{\"type\":\"orderbook_snapshot\",\"sid\":2,\"seq\":2,\"msg\":{\"market_ticker\":\"FED\",\"yes\":[[8,300],[22,"
         "333]],"
         "\"no\":[[54,20]],\"no_dollars\":[ [ \"0.5400\" , 20 ] , [\"0.5600\",146] ]}}");
    assert_int_equal(view.data[4], 0);
    assert_int_equal(get64(view.pointers + 8) >> 36, 2);
    assert_int_equal(get64(view.pointers + 16) >> 36, 2); /* no_dollars comes before no */
    const uint8_t *bids = pointer_target(view.pointers + 8) + 8, *asks = pointer_target(view.pointers + 16) + 8;
    assert_int_equal(get32(bids), 800);
    assert_int_equal(get64(bids + 8), 30000);
    assert_int_equal(get32(asks), 4600);
    assert_int_equal(get64(asks + 8), 2000);
    assert_int_equal(get32(asks + 16), 4400);
}

static void a_snapshot_without_ladders_is_an_empty_book(void **state)
{
    (void)state;
    take("{\"type\":\"orderbook_snapshot\",\"sid\":1,\"seq\":76182,\"msg\":{\"market_ticker\":\"KXB\",\"market_id\":"
         "\"\"}}");
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    assert_int_equal(view.data[4], 1);
    assert_int_equal(get64(view.pointers + 8), 0);
    assert_int_equal(get64(view.pointers + 16), 0);
}

static void an_empty_ladder_counts_as_present(void **state)
{
    (void)state;
    take("{\"type\":\"orderbook_snapshot\",\"msg\":{\"market_ticker\":\"K\",\"yes_dollars_fp\":[],\"yes\":[[1,1]],"
         "\"no\":null}}");
    assert_int_equal(view.data[4], 1);
    assert_int_equal(get64(view.pointers + 8), 0);
    assert_int_equal(get64(view.pointers + 16), 0);
}

static void a_created_market_takes_its_event_from_the_metadata(void **state)
{
    (void)state;
    take("{\"type\":\"market_lifecycle_v2\",\"sid\":4,\"seq\":23,\"msg\":{\"market_ticker\":\"KXF-7\",\"exchange_"
         "index\":0,"
         "\"open_ts\":1790363733,\"close_ts\":1790535600,\"additional_metadata\":{\"name\":\"Over "
         "\\\"6\\\"\",\"event_ticker\":"
         "\"KXF\",\"floor_strike\":6.5},\"event_type\":\"created\",\"price_level_structure\":\"linear_cent\",\"price_"
         "ranges\":"
         "[{\"start\":\"0.0000\"}]}}");
    assert_int_equal(view.kind, SSMD_KIND_STATUS);
    assert_true(says(0, "KXF-7"));
    assert_true(says(1, "KXF"));
    assert_int_equal(u16(0), 1);
    assert_int_equal(view.data[2], 0);
    assert_int_equal(i64(8), 1790363733000000000);
    assert_int_equal(i64(16), 1790535600000000000);
    assert_int_equal(exchange_ns(), 0);
}

static void a_determined_market_has_result_and_settlement(void **state)
{
    (void)state;
    take("{\"type\":\"multivariate_market_lifecycle\",\"sid\":1,\"seq\":9,\"msg\":{\"market_ticker\":\"KXM\","
         "\"determination_ts\":"
         "1784501722,\"result\":\"no\",\"settlement_value\":\"0.0000\",\"event_type\":\"determined\",\"additional_"
         "metadata\":"
         "{\"event_ticker\":\"not in determined\"}}}");
    assert_int_equal(u16(0), 5);
    assert_int_equal(view.data[2], 3); /* hasSettlement, multivariate */
    assert_int_equal(i32(4), 0);
    assert_int_equal(i64(24), 1784501722000000000);
    assert_true(says(1, ""));
    assert_true(says(2, "no"));
    assert_true(says(3, ""));
}

static void an_event_type_that_is_not_known_keeps_its_name(void **state)
{
    (void)state;
    take("{\"type\":\"market_lifecycle_v2\",\"sid\":1,\"seq\":1,\"msg\":{\"market_ticker\":\"K\",\"event_type\":"
         "\"paused\"}}");
    assert_int_equal(view.kind, SSMD_KIND_STATUS);
    assert_int_equal(u16(0), 0);
    assert_true(says(3, "paused"));
}

static void event_messages_name_their_event(void **state)
{
    (void)state;
    take("{\"type\":\"event_lifecycle\",\"sid\":5,\"seq\":8,\"msg\":{\"event_ticker\":\"KXQ\",\"title\":\"\\u2026\","
         "\"exchange_index\":0}}");
    assert_int_equal(view.kind, SSMD_KIND_STATUS);
    assert_int_equal(u16(0), 9);
    assert_true(says(0, ""));
    assert_true(says(1, "KXQ"));
    take("{\"type\":\"event_fee_update\",\"sid\":5,\"seq\":9,\"msg\":{\"event_ticker\":\"KXM\",\"fee_multiplier_"
         "override\":1.5}}");
    assert_int_equal(u16(0), 10);
    assert_true(says(1, "KXM"));
}

static void index_values_of_all_three_sources(void **state)
{
    (void)state;
    take("{\"type\":\"cfbenchmarks_value\",\"sid\":1,\"seq\":1,\"msg\":{\"index_id\":\"BRTI\",\"received_at\":"
         "1791180714074,\"data\":"
         "\"{\\\"value\\\":\\\"85850.67\\\"}\",\"avg_60s_data\":{\"value\":\"85850.67000000\",\"window_size\":0}},"
         "\"sending_ts_ms\":"
         "1791180714077}");
    assert_int_equal(view.kind, SSMD_KIND_INDEX);
    assert_true(says(0, "BRTI"));
    assert_int_equal(u16(0), 0);
    assert_int_equal(view.data[2], 2); /* average, no value */
    assert_int_equal(i64(16), 8585067000000);
    assert_int_equal(i64(24), 1791180714074000000);
    take("{\"type\":\"cfbenchmarks_value_5hz\",\"sid\":1,\"seq\":2,\"msg\":{\"index_id\":\"B\",\"value_usd\":\"1."
         "00000001\","
         "\"source_ts_ms\":1791180714000}}");
    assert_int_equal(u16(0), 1);
    assert_int_equal(view.data[2], 1);
    assert_int_equal(i64(8), 100000001);
    assert_int_equal(exchange_ns(), 1791180714000000000);
    take("{\"type\":\"pyth_value\",\"sid\":1,\"seq\":2,\"msg\":{\"underlying_ticker\":\"BTC\",\"value_usd\":\"2\","
         "\"avg_60s_data\":null}}");
    assert_int_equal(u16(0), 2);
    assert_true(says(0, "BTC"));
    assert_int_equal(i64(8), 200000000);
}

static void replies_and_errors(void **state)
{
    (void)state;
    take("{\"type\":\"subscribed\",\"id\":1,\"msg\":{\"channel\":\"ticker\",\"sid\":3}}");
    assert_int_equal(view.kind, SSMD_KIND_CONTROL);
    assert_int_equal(sid(), 0);
    assert_int_equal(u16(0), 0);
    assert_int_equal(i64(8), 1);
    assert_int_equal(i32(16), 3);
    assert_true(says(0, "ticker"));
    take("{\"type\":\"ok\",\"id\":5,\"sid\":1,\"seq\":4,\"msg\":{\"market_tickers\":[\"A\"]}}");
    assert_int_equal(u16(0), 1);
    assert_int_equal(i32(16), 1);
    assert_int_equal(seq(), 4);
    take("{\"type\":\"ok\",\"id\":3}");
    assert_int_equal(view.kind, SSMD_KIND_CONTROL);
    take("{\"type\":\"unsubscribed\",\"id\":2,\"sid\":2,\"seq\":707}");
    assert_int_equal(u16(0), 2);
    take("{\"type\":\"error\",\"sid\":3,\"seq\":2,\"msg\":{\"code\":13,\"msg\":\"Unsupported action\"}}");
    assert_int_equal(u16(0), 3);
    assert_int_equal(i32(4), 13);
    assert_true(says(1, "Unsupported action"));
    take("{\"type\":\"error\",\"id\":1,\"msg\":{\"code\":11,\"msg\":\"Invalid \\\"x\\\"\"}}"); /* lenient */
    assert_int_equal(view.kind, SSMD_KIND_CONTROL);
    assert_int_equal(i32(4), 11);
    assert_true(says(1, ""));
}

/* ---- reasons ------------------------------------------------------------------------------ */

static void what_is_not_decoded_says_why(void **state)
{
    (void)state;
    expect_unparsed("", SSMD_REASON_BAD_JSON, "");
    expect_unparsed("\n", SSMD_REASON_BAD_JSON, "");
    expect_unparsed("{\"type\":\"trade\",\"sid\":1", SSMD_REASON_BAD_JSON, "");
    expect_unparsed("{\"type\":\"trade\"}}", SSMD_REASON_BAD_JSON, "");
    expect_unparsed("{}", SSMD_REASON_NO_TYPE, "");
    expect_unparsed("{\"type\":null}", SSMD_REASON_NO_TYPE, "");
    expect_unparsed("{\"type\":\"\"}", SSMD_REASON_NO_TYPE, "");
    expect_unparsed("{\"type\":5}", SSMD_REASON_NO_TYPE, "");
    expect_unparsed("{\"type\":\"tr\\u0061de\"}", SSMD_REASON_NO_TYPE, "");
    expect_unparsed("{\"type\":\"news\"}", SSMD_REASON_UNKNOWN_TYPE, "news");
    expect_unparsed("{\"type\":\"trad\"}", SSMD_REASON_UNKNOWN_TYPE, "trad");
    expect_unparsed("{\"type\":\"trades\"}", SSMD_REASON_UNKNOWN_TYPE, "trades");
    expect_unparsed("{\"type\":\"fill\",\"msg\":{}}", SSMD_REASON_NOT_DECODED, "fill");
    expect_unparsed("{\"type\":\"pyth_value_underlying_list\"}", SSMD_REASON_NOT_DECODED, "pyth_value_underlying_list");
    expect_unparsed("{\"type\":\"trade\"}", SSMD_REASON_MISSING_FIELD, "trade");
    expect_unparsed("{\"type\":\"trade\",\"msg\":null}", SSMD_REASON_MISSING_FIELD, "trade");
    expect_unparsed("{\"type\":\"trade\",\"msg\":[]}", SSMD_REASON_BAD_FIELD, "trade");
    expect_unparsed("{\"type\":\"trade\",\"msg\":{}}", SSMD_REASON_MISSING_FIELD, "trade");
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"\"}}", SSMD_REASON_MISSING_FIELD, "ticker");
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"price\":\"5\"}}", SSMD_REASON_BAD_FIELD,
                    "ticker");
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"price_dollars\":0.5}}",
                    SSMD_REASON_BAD_FIELD, "ticker");
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"price_dollars\":\"0.50001\"}}",
                    SSMD_REASON_BAD_FIELD, "ticker");
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"price_dollars\":\"214748.3648\"}}",
                    SSMD_REASON_BAD_FIELD, "ticker");
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"price\":21474837}}", SSMD_REASON_BAD_FIELD,
                    "ticker");
    expect_unparsed("{\"type\":\"event_lifecycle\",\"msg\":{}}", SSMD_REASON_MISSING_FIELD, "event_lifecycle");
    expect_unparsed("{\"type\":\"subscribed\",\"msg\":{\"channel\":\"ticker\"}}", SSMD_REASON_MISSING_FIELD,
                    "subscribed");
    expect_unparsed("{\"type\":\"subscribed\",\"msg\":{\"channel\":\"t\",\"sid\":4294967296}}", SSMD_REASON_BAD_FIELD,
                    "subscribed");
    expect_unparsed("{\"type\":\"error\",\"msg\":{\"msg\":\"x\"}}", SSMD_REASON_MISSING_FIELD, "error");
    expect_unparsed("{\"type\":\"ok\",\"id\":-1}", SSMD_REASON_BAD_FIELD, "ok");
    expect_unparsed("{\"type\":\"ticker\",\"id\":\"x\",\"msg\":{\"market_ticker\":\"K\"}}", SSMD_REASON_BAD_FIELD,
                    "ticker");
    expect_unparsed("{\"type\":\"cfbenchmarks_value\",\"msg\":{\"index_id\":\"B\",\"avg_60s_data\":[]}}",
                    SSMD_REASON_BAD_FIELD, "cfbenchmarks_value");
}

#define DELTA(fields) "{\"type\":\"orderbook_delta\",\"sid\":1,\"seq\":2,\"msg\":{" fields "}}"
#define SNAPSHOT(fields)                                                                                               \
    "{\"type\":\"orderbook_snapshot\",\"sid\":1,\"seq\":2,\"msg\":{\"market_ticker\":\"K\"," fields "}}"

static void reasons_win_in_their_order(void **state)
{
    (void)state;
    /* sid before type, type before msg, bad before missing, missing before a price that does not fit when turned */
    expect_unparsed("{\"type\":\"news\",\"sid\":-1}", SSMD_REASON_BAD_FIELD, "news");
    expect_unparsed("{\"type\":7,\"sid\":-1}", SSMD_REASON_NO_TYPE, "");
    expect_unparsed("{\"type\":\"fill\",\"msg\":7,\"id\":-1}", SSMD_REASON_NOT_DECODED, "fill");
    expect_unparsed("{\"type\":\"error\",\"id\":-1}", SSMD_REASON_MISSING_FIELD, "error");
    expect_unparsed(DELTA("\"market_ticker\":5"), SSMD_REASON_BAD_FIELD, "orderbook_delta");
    expect_unparsed(DELTA("\"market_ticker\":\"K\",\"side\":\"maybe\""), SSMD_REASON_BAD_FIELD, "orderbook_delta");
    expect_unparsed(DELTA("\"market_ticker\":\"K\",\"side\":\"no\",\"price\":-21474836"), SSMD_REASON_MISSING_FIELD,
                    "orderbook_delta");
    expect_unparsed(DELTA("\"market_ticker\":\"K\",\"side\":\"no\",\"price\":-21474836,\"delta\":1"),
                    SSMD_REASON_BAD_FIELD, "orderbook_delta");
    take(DELTA("\"market_ticker\":\"K\",\"side\":\"yes\",\"price\":-21474836,\"delta\":1"));
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    assert_int_equal(i32(8), -2147483600);
}

static void levels_of_another_shape_are_bad_fields(void **state)
{
    (void)state;
    static const char *const BAD[] = {"{}",         "5",          "\"\"",         "[5]",
                                      "[[]]",       "[[1]]",      "[[1,2,3]]",    "[[1,null]]",
                                      "[[\"\",1]]", "[[1,\"\"]]", "[[1.5,1]]",    "[[\"0.00001\",1]]",
                                      "[[1,[2]]]",  "[[true,1]]", "[[1,2],null]", "[[21474837,1]]",
                                      "[[1,2],[3]]"};
    char frame[256];
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        sprintf(frame, SNAPSHOT("\"no\":%s"), BAD[i]);
        expect_unparsed(frame, SSMD_REASON_BAD_FIELD, "orderbook_snapshot");
        assert_int_equal(seq(), 2);
        /* a malformed ladder counts even where a better one is there */
        sprintf(frame, SNAPSHOT("\"no\":%s,\"no_dollars_fp\":[[\"0.5\",\"1\"]]"), BAD[i]);
        expect_unparsed(frame, SSMD_REASON_BAD_FIELD, "orderbook_snapshot");
    }
    expect_unparsed(SNAPSHOT("\"no\":[[1,2]"), SSMD_REASON_BAD_JSON, "");
    expect_unparsed(SNAPSHOT("\"no\":[[1,2],]"), SSMD_REASON_BAD_JSON, "");
    expect_unparsed(SNAPSHOT("\"no\":[[1,02]]"), SSMD_REASON_BAD_JSON, "");
    expect_unparsed(SNAPSHOT("\"no\":[[-21474836,1]]"), SSMD_REASON_BAD_FIELD,
                    "orderbook_snapshot"); /* turned: 10000 - p */
}

static void a_malformed_number_spoils_only_itself_in_the_header(void **state)
{
    (void)state;
    expect_unparsed("{\"type\":\"trade\",\"sid\":\"1\",\"seq\":7,\"sending_ts_ms\":5}", SSMD_REASON_BAD_FIELD, "trade");
    assert_int_equal(sid(), 0);
    assert_int_equal(seq(), 7);
    assert_int_equal(sent_ns(), 5000000);
    expect_unparsed("{\"type\":\"trade\",\"sid\":4294967295,\"seq\":1000000000000000}", SSMD_REASON_BAD_FIELD, "trade");
    assert_int_equal(sid(), 4294967295u);
    assert_int_equal(seq(), 0);
    take("{\"type\":\"news\",\"sid\":3,\"seq\":4,\"sending_ts_ms\":9000000000000}");
    assert_int_equal(sid(), 3);
    assert_int_equal(seq(), 4);
    assert_int_equal(sent_ns(), 0);
}

static void types_of_more_than_64_bytes_are_not_repeated(void **state)
{
    (void)state;
    char frame[200], name[80];
    memset(name, 'x', sizeof name);
    for (int n = 63; n <= 66; n++) {
        sprintf(frame, "{\"type\":\"%.*s\"}", n, name);
        take(frame);
        assert_int_equal(u16(0), SSMD_REASON_UNKNOWN_TYPE);
        assert_int_equal(get64(view.pointers) >> 35, n <= 64 ? n + 1 : 0);
    }
}

static void deep_frames_are_too_complex_and_say_nothing_else(void **state)
{
    (void)state;
    char frame[256];
    size_t n = (size_t)sprintf(frame, "{\"type\":\"trade\",\"sid\":1,\"seq\":2,\"msg\":");
    for (int i = 0; i < 32; i++)
        frame[n++] = '[';
    for (int i = 0; i < 32; i++)
        frame[n++] = ']';
    frame[n++] = '}';
    frame[n] = 0;
    expect_unparsed(frame, SSMD_REASON_TOO_COMPLEX, "");
    assert_int_equal(sid(), 0);
    assert_int_equal(seq(), 0);
}

static void a_record_beyond_the_limit_is_too_complex_but_says_what_it_was(void **state)
{
    (void)state;
    static const char FRAME[] = SNAPSHOT("\"yes\":[[1,1],[2,2],[3,3]]");
    take_bytes(FRAME, sizeof FRAME - 1, YES | KEEP, 0);
    uint64_t whole = 8 + 8 * (uint64_t)get32(record + 4);
    take_bytes(FRAME, sizeof FRAME - 1, YES | KEEP, whole);
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    take_bytes(FRAME, sizeof FRAME - 1, YES | KEEP, whole - 1);
    assert_int_equal(view.kind, SSMD_KIND_UNPARSED);
    assert_int_equal(u16(0), SSMD_REASON_TOO_COMPLEX);
    assert_true(says(0, "orderbook_snapshot"));
    assert_int_equal(sid(), 1);
    assert_int_equal(seq(), 2);
}

static void a_binary_message_is_kept_as_it_is(void **state)
{
    (void)state;
    take_bytes(DELTA_NO, sizeof DELTA_NO - 1, YES | BINARY, 0);
    assert_int_equal(view.kind, SSMD_KIND_UNPARSED);
    assert_int_equal(u16(0), SSMD_REASON_BINARY);
    assert_true(says(0, ""));
    assert_int_equal(sid(), 0);
}

static void without_keep_only_unparsed_records_carry_their_frame(void **state)
{
    (void)state;
    take_bytes(DELTA_NO, sizeof DELTA_NO - 1, YES, 0);
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    assert_null(view.frame);
    take_bytes("{}", 2, YES, 0);
    assert_non_null(view.frame);
}

/* ---- any order, doubles, unknown keys ----------------------------------------------------- */

static void keys_may_come_in_any_order_and_with_any_space(void **state)
{
    (void)state;
    take(" { \"msg\" : { \"ts_ms\" : 1790363624342 , \"side\" : \"yes\" , \"delta_fp\" : \"5.00\" , \"price_dollars\" "
         ": \"0.2500\" ,"
         " \"market_ticker\" : \"K\" } , \"seq\" : 2 , \"sid\" : 1 , \"type\" : \"orderbook_delta\" } \r\n");
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    assert_int_equal(sid(), 1);
    assert_int_equal(seq(), 2);
    assert_int_equal(u16(2), 1);
    assert_int_equal(i32(8), 2500);
    assert_int_equal(i64(16), 500);
    assert_int_equal(exchange_ns(), 1790363624342000000);
}

static void of_doubled_keys_the_last_counts(void **state)
{
    (void)state;
    take("{\"type\":\"ticker\",\"type\":\"orderbook_delta\",\"msg\":{\"market_ticker\":5},\"sid\":\"bad\",\"sid\":1,"
         "\"msg\":{\"side\":\"x\","
         "\"market_ticker\":\"A\",\"price\":1,\"delta\":1,\"price\":2,\"side\":\"yes\",\"market_ticker\":\"B\"},"
         "\"seq\":3,\"seq\":null}");
    assert_int_equal(view.kind, SSMD_KIND_BOOK);
    assert_true(says(0, "B"));
    assert_int_equal(i32(8), 200);
    assert_int_equal(sid(), 1);
    assert_int_equal(seq(), 0);
    take(
        "{\"type\":\"orderbook_delta\",\"msg\":{\"market_ticker\":\"K\",\"price\":1},\"type\":\"ticker\"}"); /* msg is
                                                                                                                read
                                                                                                                again */
    assert_int_equal(view.kind, SSMD_KIND_TICKER);
    assert_int_equal(i32(4), 100);
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\"},\"msg\":null}", SSMD_REASON_MISSING_FIELD,
                    "ticker");
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\"},\"type\":null}", SSMD_REASON_NO_TYPE, "");
}

static void a_key_with_an_escape_is_another_key(void **state)
{
    (void)state;
    expect_unparsed("{\"type\":\"ticker\",\"msg\":{\"market_t\\u0069cker\":\"K\"}}", SSMD_REASON_MISSING_FIELD,
                    "ticker");
    expect_unparsed("{\"t\\u0079pe\":\"ticker\"}", SSMD_REASON_NO_TYPE, "");
}

static void decode(ssmd_message *message, const char *frame)
{
    static uint8_t padded[4096];
    memset(padded, 0, sizeof padded);
    memcpy(padded, frame, strlen(frame));
    ssmd_message_decode(message, padded, strlen(frame), YES | KEEP, UINT64_MAX);
}

static void unknown_keys_are_counted_where_the_type_is_decoded(void **state)
{
    (void)state;
    static ssmd_message message;
    static const struct {
        const char *frame;
        uint32_t unknown, malformed;
    } CASES[] = {
        {"{\"type\":\"ticker\",\"a\":1,\"msg\":{\"market_ticker\":\"K\",\"b\":{\"c\":1},\"b\":2},\"d\":[]}", 4, 0},
        {"{\"type\":\"ticker\",\"msg\":{\"x\":1},\"msg\":{\"market_ticker\":\"K\",\"y\":1}}", 1, 0},
        {"{\"type\":\"news\",\"a\":1,\"msg\":{\"b\":1}}", 0, 0},
        {"{\"type\":\"fill\",\"a\":1,\"msg\":{\"b\":1}}", 0, 0},
        {"{\"type\":\"ok\",\"a\":1,\"msg\":{\"b\":1}}", 1, 0},
        {"{\"type\":\"ticker\",\"a\":1}", 1, 0},
        {"{\"type\":\"trade\",\"sid\":-1,\"a\":1}", 0, 0},
        {"{\"type\":\"cfbenchmarks_value\",\"msg\":{\"index_id\":\"B\",\"ts_ms\":1,\"underlying_ticker\":1,\"avg_60s_"
         "data\":{\"q\":1}}}",
         2, 0},
        {"{\"type\":\"ticker\",\"sending_ts_ms\":\"x\",\"msg\":{\"market_ticker\":\"K\",\"ts\":\"x\",\"ts_ms\":-1,"
         "\"dollar_volume\":[]}}",
         0, 4},
        {"{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"ts\":null,\"ts_ms\":0}}", 0, 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        decode(&message, CASES[i].frame);
        if (message.unknown_fields != CASES[i].unknown || message.malformed != CASES[i].malformed)
            fail_msg("%u unknown, %u malformed: %s", message.unknown_fields, message.malformed, CASES[i].frame);
    }
}

static void unknown_values_are_told(void **state)
{
    (void)state;
    static ssmd_message message;
    decode(
        &message,
        "{\"type\":\"trade\",\"msg\":{\"market_ticker\":\"K\",\"yes_price\":1,\"count\":1,\"taker_side\":\"both\"}}");
    assert_int_equal(message.kind, SSMD_KIND_TRADE);
    assert_int_equal(message.unknown_value.n, 4);
    assert_memory_equal(message.unknown_value.at, "both", 4);
    decode(&message,
           "{\"type\":\"trade\",\"msg\":{\"market_ticker\":\"K\",\"yes_price\":1,\"count\":1,\"taker_side\":\"both\","
           "\"taker_outcome_side\":\"no\"}}");
    assert_int_equal(message.unknown_value.n, 0);
    decode(&message, "{\"type\":\"trade\",\"msg\":{\"market_ticker\":\"K\",\"taker_side\":\"both\"}}");
    assert_int_equal(message.kind, SSMD_KIND_UNPARSED);
    assert_int_equal(message.unknown_value.n, 0);
}

static void times_out_of_range_are_absent(void **state)
{
    (void)state;
    take("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"ts\":5,\"ts_ms\":9000000000000}}");
    assert_int_equal(exchange_ns(), 5000000000);
    take("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"ts\":5,\"ts_ms\":8999999999999}}");
    assert_int_equal(exchange_ns(), 8999999999999000000);
    take("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"ts\":5,\"ts_ms\":0}}");
    assert_int_equal(exchange_ns(), 0);
    take("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"ts\":9000000000}}");
    assert_int_equal(exchange_ns(), 0);
    take("{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"ts\":\"2026-02-30T00:00:00Z\",\"ts_ms\":7}}");
    assert_int_equal(exchange_ns(), 7000000);
}

/* ---- memory ------------------------------------------------------------------------------- */

/* Each prefix of frames of all shapes, its padding up to a guard page: no prefix is JSON, none is read too far. */
static void prefixes_are_bad_json_and_nothing_behind_them_is_read(void **state)
{
    (void)state;
    static const char *const FRAMES[] = {
        DELTA_NO,
        SNAPSHOT("\"yes_dollars_fp\":[[\"0.0100\",\"80.00\"],[3,4]],\"no\":[]"),
        "{\"type\":\"market_lifecycle_v2\",\"sid\":4,\"seq\":23,\"msg\":{\"market_ticker\":\"KXF-7\",\"additional_"
        "metadata\":{"
        "\"name\":\"Over "
        "\\\"6\\\"\",\"event_ticker\":\"KXF\"},\"event_type\":\"created\",\"last_60s_windowed_average_15min\":-1.5e7}}",
    };
    static ssmd_message message;
    guarded guard = guard_open(1 << 16);
    for (size_t i = 0; i < sizeof FRAMES / sizeof *FRAMES; i++)
        for (size_t n = 0; n < strlen(FRAMES[i]); n++) {
            uint8_t *at = guard.end - SSMD_JSON_PADDING_BYTES - n;
            memcpy(at, FRAMES[i], n + 1);
            memcpy(at + n, FRAMES[i] + n, strlen(FRAMES[i]) - n < 64 ? strlen(FRAMES[i]) - n : 64);
            at[n] = 0; /* what would go on the frame stands behind the NUL */
            ssmd_message_decode(&message, at, n, YES | KEEP, UINT64_MAX);
            assert_int_equal(message.kind, SSMD_KIND_UNPARSED);
            assert_int_equal(message.reason, SSMD_REASON_BAD_JSON);
        }
    guard_close(&guard);
}

static void frames_larger_than_the_stack_buffer_are_taken_as_well(void **state)
{
    (void)state;
    static char frame[40000];
    size_t n = (size_t)sprintf(frame, "{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"x\":\"");
    memset(frame + n, 'x', 30000);
    sprintf(frame + n + 30000, "\"}}");
    take(frame);
    assert_int_equal(view.kind, SSMD_KIND_TICKER);
}

static void too_little_room_is_told_and_nothing_is_written(void **state)
{
    (void)state;
    ssmd_frame_meta meta = {.flags = YES | KEEP};
    uint8_t out[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    size_t written = 0;
    assert_int_equal(ssmd_normalize((const uint8_t *)"{}", 2, &meta, out, sizeof out, &written), SSMD_TOO_LARGE);
    assert_int_equal(written, 96 + 16 + 8);
    assert_int_equal(out[0], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trade_of_the_new_format),
        cmocka_unit_test(a_trade_of_the_old_format),
        cmocka_unit_test(a_ticker_of_the_new_format),
        cmocka_unit_test(a_ticker_of_the_old_format_that_was_never_traded),
        cmocka_unit_test(a_delta_of_the_new_format_on_the_yes_scale),
        cmocka_unit_test(a_delta_on_the_no_sides_own_scale_is_turned),
        cmocka_unit_test(a_snapshot_of_the_new_format),
        cmocka_unit_test(a_snapshot_of_the_old_format_with_the_no_side_turned),
        cmocka_unit_test(a_snapshot_without_ladders_is_an_empty_book),
        cmocka_unit_test(an_empty_ladder_counts_as_present),
        cmocka_unit_test(a_created_market_takes_its_event_from_the_metadata),
        cmocka_unit_test(a_determined_market_has_result_and_settlement),
        cmocka_unit_test(an_event_type_that_is_not_known_keeps_its_name),
        cmocka_unit_test(event_messages_name_their_event),
        cmocka_unit_test(index_values_of_all_three_sources),
        cmocka_unit_test(replies_and_errors),
        cmocka_unit_test(what_is_not_decoded_says_why),
        cmocka_unit_test(reasons_win_in_their_order),
        cmocka_unit_test(levels_of_another_shape_are_bad_fields),
        cmocka_unit_test(a_malformed_number_spoils_only_itself_in_the_header),
        cmocka_unit_test(types_of_more_than_64_bytes_are_not_repeated),
        cmocka_unit_test(deep_frames_are_too_complex_and_say_nothing_else),
        cmocka_unit_test(a_record_beyond_the_limit_is_too_complex_but_says_what_it_was),
        cmocka_unit_test(a_binary_message_is_kept_as_it_is),
        cmocka_unit_test(without_keep_only_unparsed_records_carry_their_frame),
        cmocka_unit_test(keys_may_come_in_any_order_and_with_any_space),
        cmocka_unit_test(of_doubled_keys_the_last_counts),
        cmocka_unit_test(a_key_with_an_escape_is_another_key),
        cmocka_unit_test(unknown_keys_are_counted_where_the_type_is_decoded),
        cmocka_unit_test(unknown_values_are_told),
        cmocka_unit_test(times_out_of_range_are_absent),
        cmocka_unit_test(prefixes_are_bad_json_and_nothing_behind_them_is_read),
        cmocka_unit_test(frames_larger_than_the_stack_buffer_are_taken_as_well),
        cmocka_unit_test(too_little_room_is_told_and_nothing_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
