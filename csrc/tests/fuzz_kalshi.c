/* fuzz_kalshi.c - any bytes as a frame: a record comes out whose frame is those bytes, well formed to the last bit of
 * its padding (record_check.h), in exactly the room that was announced; and the fast reader and the plain JSON walker
 * agree on what is JSON.
 *
 * The first byte holds the flags. With TEMPLATE set, the rest is edits (place, kind, value) of a good frame, which
 * reach deeper than random bytes: single bytes, tokens put in, stretches repeated or cut out. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kalshi.h"
#include "record_check.h"

enum { MOST_BYTES = 4096, TEMPLATE = 0x08, SMALL_LIMIT = 0x10 };

static const char *const FRAMES[] = {
    "{\"type\":\"orderbook_delta\",\"sid\":1,\"seq\":41076,\"msg\":{\"market_ticker\":\"KXC-B74250\",\"market_id\":"
    "\"ef0ce114-eb71\","
    "\"price_dollars\":\"0.9600\",\"delta_fp\":\"-2.00\",\"side\":\"no\",\"ts\":\"2026-09-25T19:13:44.342537Z\",\"ts_"
    "ms\":"
    "1790363624342},\"sending_ts_ms\":1790363624345}\n",
    "{\"type\":\"orderbook_delta\",\"sid\":2,\"seq\":3,\"msg\":{\"market_ticker\":\"FED\",\"price\":96,\"price_"
    "dollars\":\"0.9600\","
    "\"delta\":-54,\"side\":\"yes\",\"ts\":\"2025-12-01T20:44:01.539836Z\"}}\n",
    "{\"type\":\"orderbook_snapshot\",\"id\":4,\"sid\":1,\"seq\":102,\"msg\":{\"market_ticker\":\"KXB\",\"market_id\":"
    "\"64e9\","
    "\"yes_dollars_fp\":[[\"0.0100\",\"80.00\"],[\"0.0200\",\"114.00\"]],\"no_dollars_fp\":[[\"0.0100\",\"130.12\"]]}}"
    "\n",
    "{\"type\":\"orderbook_snapshot\",\"sid\":2,\"seq\":2,\"msg\":{\"market_ticker\":\"FED\",\"yes\":[[8,300],[22,333]]"
    ","
    "\"yes_dollars\":[[\"0.0800\",300]],\"no\":[[54,20]],\"no_dollars\":[[\"0.5400\",20]]}}\n",
    "{\"type\":\"ticker\",\"sid\":3,\"msg\":{\"market_id\":\"7469\",\"market_ticker\":\"KXA-T8.99\",\"price_dollars\":"
    "\"0.9900\","
    "\"yes_bid_dollars\":\"0.9900\",\"yes_ask_dollars\":\"1.0000\",\"volume_fp\":\"7950.52\",\"open_interest_fp\":"
    "\"7333.62\","
    "\"dollar_volume\":3975,\"dollar_open_interest\":3666,\"yes_bid_size_fp\":\"1046.00\",\"yes_ask_size_fp\":\"0.00\","
    "\"last_trade_size_fp\":\"0.99\",\"ts\":1790363592,\"ts_ms\":1790363592125,\"time\":\"2026-09-25T19:13:12."
    "125735Z\"}}\n",
    "{\"type\":\"ticker\",\"sid\":1,\"msg\":{\"market_id\":\"2\",\"market_ticker\":\"K\",\"price\":12,\"yes_bid\":11,"
    "\"yes_ask\":12,"
    "\"volume\":351970,\"open_interest\":182646,\"dollar_volume\":1,\"ts\":1732579880,\"Clock\":6598272994}}\n",
    "{\"type\":\"trade\",\"sid\":2,\"seq\":5,\"msg\":{\"trade_id\":\"0723be0d\",\"market_ticker\":\"KXB\",\"yes_price_"
    "dollars\":\"0.9840\","
    "\"no_price_dollars\":\"0.0160\",\"count_fp\":\"148.78\",\"taker_side\":\"yes\",\"taker_outcome_side\":\"yes\","
    "\"taker_book_side\":"
    "\"bid\",\"is_block_trade\":false,\"ts\":1790363592,\"ts_ms\":1790363592101}}\n",
    "{\"type\":\"market_lifecycle_v2\",\"sid\":4,\"seq\":23,\"msg\":{\"market_ticker\":\"KXF-7\",\"exchange_index\":0,"
    "\"open_ts\":"
    "1790363733,\"close_ts\":1790535600,\"additional_metadata\":{\"name\":\"x\",\"event_ticker\":\"KXF\",\"floor_"
    "strike\":6.5},"
    "\"event_type\":\"created\",\"price_ranges\":[{\"start\":\"0.0000\"}]}}\n",
    "{\"type\":\"market_lifecycle_v2\",\"sid\":1,\"seq\":9,\"msg\":{\"market_ticker\":\"K\",\"determination_ts\":"
    "1784501722,\"result\":"
    "\"no\",\"settlement_value\":\"0.0000\",\"event_type\":\"determined\"}}\n",
    "{\"type\":\"event_lifecycle\",\"sid\":5,\"seq\":8,\"msg\":{\"event_ticker\":\"KXQ\",\"title\":\"\\u2026\"}}\n",
    "{\"type\":\"cfbenchmarks_value\",\"sid\":1,\"seq\":1,\"msg\":{\"index_id\":\"BRTI\",\"received_at\":1791180714074,"
    "\"data\":"
    "\"{\\\"v\\\":1}\",\"value_usd\":\"1.00000001\",\"avg_60s_data\":{\"value\":\"85850.67000000\"}}}\n",
    "{\"type\":\"subscribed\",\"id\":1,\"msg\":{\"channel\":\"ticker\",\"sid\":3}}\n",
    "{\"type\":\"ok\",\"id\":5,\"sid\":1,\"seq\":4,\"msg\":{\"market_tickers\":[\"A\",\"B\"]}}\n",
    "{\"type\":\"error\",\"id\":1,\"sid\":3,\"seq\":2,\"msg\":{\"code\":13,\"msg\":\"Unsupported action\"}}\n",
};

static const char *const TOKENS[] = {
    "null",
    "true",
    "\"\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0041",
    "\xc3\xa9",
    "\xff",
    "-",
    "0",
    "1e5",
    ".",
    " ",
    "999999999999999",
    "1000000000000000",
    "4294967296",
    "9000000000000",
    "\"214748.3648\"",
    "-21474837",
    "[[1,2]]",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    "\"type\":\"trade\",",
    "\"type\":\"ticker\",",
    "\"msg\":{},",
    "\"msg\":null,",
    "\"sid\":7,",
    "\"seq\":null,",
    "\"id\":-1,",
    "\"side\":\"no\",",
    "\"price\":5,",
    "\"yes\":[],",
    "\"no_dollars_fp\":[[\"0.5\",\"1\"]],",
    "\"ts\":\"2100-02-29T23:59:59Z\",",
    "\"new\":{\"a\":[1,\"b\"]},",
    "\"value\":\"1.5\",",
};
enum { FRAME_COUNT = sizeof FRAMES / sizeof *FRAMES, TOKEN_COUNT = sizeof TOKENS / sizeof *TOKENS };

/* Opens a hole of n bytes at `place`, or says no. */
static uint8_t *hole(uint8_t *frame, size_t *bytes, size_t place, size_t n)
{
    if (*bytes + n > MOST_BYTES)
        return NULL;
    memmove(frame + place + n, frame + place, *bytes - place);
    *bytes += n;
    return frame + place;
}

static void edit(uint8_t *frame, size_t *bytes, size_t place, uint8_t kind, uint8_t value)
{
    uint8_t copy[256], *to;
    place %= *bytes + 1;
    size_t n = value % 32u;
    switch (kind % 4) {
    case 0:
        if (place < *bytes)
            frame[place] = value;
        break;
    case 1: /* cut out */
        if (n > *bytes - place)
            n = *bytes - place;
        memmove(frame + place, frame + place + n, *bytes - place - n);
        *bytes -= n;
        break;
    case 2: /* put a token in */
        n = strlen(TOKENS[value % TOKEN_COUNT]);
        if ((to = hole(frame, bytes, place, n)) != NULL)
            memcpy(to, TOKENS[value % TOKEN_COUNT], n);
        break;
    default: /* say again */
        if (n > *bytes - place)
            n = *bytes - place;
        memcpy(copy, frame + place, n);
        if ((to = hole(frame, bytes, place, n)) != NULL)
            memcpy(to, copy, n);
        break;
    }
}

static size_t make_frame(uint8_t *frame, const uint8_t *data, size_t n)
{
    if ((data[0] & TEMPLATE) == 0) {
        memcpy(frame, data + 1, n - 1);
        return n - 1;
    }
    const char *good = FRAMES[n > 1 ? data[1] % FRAME_COUNT : 0];
    size_t bytes = strlen(good);
    memcpy(frame, good, bytes);
    for (size_t i = 2; i + 4 <= n; i += 4)
        edit(frame, &bytes, (size_t)(data[i] << 8 | data[i + 1]), data[i + 2], data[i + 3]);
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t made[MOST_BYTES];
    static ssmd_message message;
    if (n < 1 || n > MOST_BYTES)
        return 0;
    size_t bytes = make_frame(made, data, n);
    uint32_t flags = data[0] & (SSMD_FRAME_USE_YES_PRICE | SSMD_FRAME_KEEP | SSMD_FRAME_BINARY);
    uint64_t limit = (data[0] & SMALL_LIMIT) != 0 ? bytes + SSMD_UNPARSED_OVERHEAD_BYTES : UINT64_MAX;

    uint8_t *frame = malloc(bytes + SSMD_JSON_PADDING_BYTES); /* to the byte: the sanitizer watches what lies behind */
    if (bytes > 0)
        memcpy(frame, made, bytes);
    memset(frame + bytes, '"', SSMD_JSON_PADDING_BYTES);
    frame[bytes] = 0;
    ssmd_message_decode(&message, frame, bytes, flags, limit);
    assert(message.record_bytes <= limit);
    uint8_t *record = malloc(message.record_bytes);
    memset(record, 0xEE, message.record_bytes);
    ssmd_record_header header = {.number = 1, .recv_ns = 2, .recv_ticks = 3, .connection = 4};
    ssmd_message_write(&message, &header, record);

    record_view view;
    assert(record_check(record, message.record_bytes, &view));
    assert(view.kind == message.kind);
    bool kept = (flags & SSMD_FRAME_KEEP) != 0 || view.kind == SSMD_KIND_UNPARSED;
    assert(view.frame_bytes == (kept ? bytes : 0));
    assert(view.frame_bytes == 0 || memcmp(view.frame, made, bytes) == 0);
    if ((flags & SSMD_FRAME_BINARY) == 0) {
        ssmd_json_verdict verdict = ssmd_json_judge(frame, frame + bytes);
        bool bad = view.kind == SSMD_KIND_UNPARSED && message.reason == SSMD_REASON_BAD_JSON;
        assert(bad == (verdict == SSMD_JSON_BAD));
        assert(verdict != SSMD_JSON_DEEP || message.reason == SSMD_REASON_TOO_COMPLEX);
    }
    free(record);
    free(frame);
    return 0;
}
