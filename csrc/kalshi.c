/* kalshi.c - the Kalshi decoder: one pass over the frame, driven by tables.
 *
 * Each message type is a *shape*: the keys of its `msg` in the order in which the exchange sends them, each with the
 * rule by which its value is read. The envelope is a shape as well. Reading an object, the decoder compares the next
 * bytes with the key that it expects next, quotes and colon included; only when that fails does it look the key up. So
 * any order works, and the wire's own order costs one comparison a key.
 *
 * The pass only notes what it finds, by field number: value, present, malformed. What that means - which of
 * two key families counts, what is missing, which reason wins - is decided afterwards, on the notes (resolve_*), and
 * written last (write_*). That split makes duplicate keys harmless: the last one overwrites the note.
 *
 * Facts: docs/records.md for the rules, the protocol sheet for the key order. The order is a matter of speed only.
 */
#include "kalshi.h"

#include <stdlib.h>

/* ---- shapes ------------------------------------------------------------------------------- */

typedef enum rule {
    RULE_SKIP, /* known, not used */
    RULE_TEXT,
    RULE_DECIMAL_E4, /* i32 */
    RULE_DECIMAL_E2,
    RULE_DECIMAL_E8,
    RULE_CENTS,
    RULE_CONTRACTS,
    RULE_U32,
    RULE_COUNTING, /* int >= 0: seq, id */
    RULE_BOOL,
    RULE_LADDER,
    RULE_AVERAGE,  /* object; its member `value` as decimal(8) */
    RULE_METADATA, /* object; its member `event_ticker` */
    RULE_MSG,
    RULE_LENIENT, /* those from here on are: malformed = absent */
    RULE_INT_LENIENT,
    RULE_TEXT_LENIENT,
    RULE_MS,
    RULE_SECONDS,
    RULE_TS /* RFC 3339, or seconds; values[].n = 1 for the former */
} rule;

typedef struct field {
    char literal[40]; /* the key as it stands on the wire: "key": */
    uint8_t bytes;
    uint8_t rule;
} field;

typedef struct shape {
    const field *fields;
    unsigned count;
} shape;

/* clang-format off */
#define FIELD(key, how) {"\"" key "\":", sizeof key + 2, how}
/* Two entries that match nothing close a table, because the reader looks at the expected field and at the one after
 * it; the first of them also stands for all unknown keys. */
#define NO_MORE {"", 255, RULE_SKIP}, {"", 255, RULE_SKIP}
#define SHAPE(table) {table, sizeof table / sizeof *table - 2}

enum { ENVELOPE_TYPE, ENVELOPE_SID, ENVELOPE_SEQ, ENVELOPE_MSG, ENVELOPE_SENT, ENVELOPE_ID };
static const field ENVELOPE_FIELDS[] = {
    [ENVELOPE_TYPE] = FIELD("type", RULE_TEXT),
    [ENVELOPE_SID] = FIELD("sid", RULE_U32),
    [ENVELOPE_SEQ] = FIELD("seq", RULE_COUNTING),
    [ENVELOPE_MSG] = FIELD("msg", RULE_MSG),
    [ENVELOPE_SENT] = FIELD("sending_ts_ms", RULE_MS),
    [ENVELOPE_ID] = FIELD("id", RULE_COUNTING),
    NO_MORE,
};
static const shape ENVELOPE = SHAPE(ENVELOPE_FIELDS);

enum {
    TRADE_ID,
    TRADE_MARKET,
    TRADE_YES_PRICE_DOLLARS,
    TRADE_NO_PRICE_DOLLARS,
    TRADE_COUNT_FP,
    TRADE_TAKER_SIDE,
    TRADE_TAKER_OUTCOME_SIDE,
    TRADE_TAKER_BOOK_SIDE,
    TRADE_BLOCK,
    TRADE_TS,
    TRADE_TS_MS,
    TRADE_YES_PRICE,
    TRADE_NO_PRICE,
    TRADE_COUNT
};
static const field TRADE_FIELDS[] = {
    [TRADE_ID] = FIELD("trade_id", RULE_TEXT),
    [TRADE_MARKET] = FIELD("market_ticker", RULE_TEXT),
    [TRADE_YES_PRICE_DOLLARS] = FIELD("yes_price_dollars", RULE_DECIMAL_E4),
    [TRADE_NO_PRICE_DOLLARS] = FIELD("no_price_dollars", RULE_SKIP),
    [TRADE_COUNT_FP] = FIELD("count_fp", RULE_DECIMAL_E2),
    [TRADE_TAKER_SIDE] = FIELD("taker_side", RULE_TEXT),
    [TRADE_TAKER_OUTCOME_SIDE] = FIELD("taker_outcome_side", RULE_TEXT),
    [TRADE_TAKER_BOOK_SIDE] = FIELD("taker_book_side", RULE_SKIP),
    [TRADE_BLOCK] = FIELD("is_block_trade", RULE_BOOL),
    [TRADE_TS] = FIELD("ts", RULE_TS),
    [TRADE_TS_MS] = FIELD("ts_ms", RULE_MS),
    [TRADE_YES_PRICE] = FIELD("yes_price", RULE_CENTS),
    [TRADE_NO_PRICE] = FIELD("no_price", RULE_SKIP),
    [TRADE_COUNT] = FIELD("count", RULE_CONTRACTS),
    NO_MORE,
};
static const shape TRADE = SHAPE(TRADE_FIELDS);

enum {
    TICKER_MARKET_ID,
    TICKER_MARKET,
    TICKER_PRICE_DOLLARS,
    TICKER_BID_DOLLARS,
    TICKER_ASK_DOLLARS,
    TICKER_VOLUME_FP,
    TICKER_INTEREST_FP,
    TICKER_DOLLAR_VOLUME,
    TICKER_DOLLAR_INTEREST,
    TICKER_BID_SIZE,
    TICKER_ASK_SIZE,
    TICKER_LAST_SIZE,
    TICKER_TS,
    TICKER_TS_MS,
    TICKER_TIME,
    TICKER_PRICE,
    TICKER_BID,
    TICKER_ASK,
    TICKER_VOLUME,
    TICKER_INTEREST,
    TICKER_CLOCK
};
static const field TICKER_FIELDS[] = {
    [TICKER_MARKET_ID] = FIELD("market_id", RULE_SKIP),
    [TICKER_MARKET] = FIELD("market_ticker", RULE_TEXT),
    [TICKER_PRICE_DOLLARS] = FIELD("price_dollars", RULE_DECIMAL_E4),
    [TICKER_BID_DOLLARS] = FIELD("yes_bid_dollars", RULE_DECIMAL_E4),
    [TICKER_ASK_DOLLARS] = FIELD("yes_ask_dollars", RULE_DECIMAL_E4),
    [TICKER_VOLUME_FP] = FIELD("volume_fp", RULE_DECIMAL_E2),
    [TICKER_INTEREST_FP] = FIELD("open_interest_fp", RULE_DECIMAL_E2),
    [TICKER_DOLLAR_VOLUME] = FIELD("dollar_volume", RULE_INT_LENIENT),
    [TICKER_DOLLAR_INTEREST] = FIELD("dollar_open_interest", RULE_INT_LENIENT),
    [TICKER_BID_SIZE] = FIELD("yes_bid_size_fp", RULE_DECIMAL_E2),
    [TICKER_ASK_SIZE] = FIELD("yes_ask_size_fp", RULE_DECIMAL_E2),
    [TICKER_LAST_SIZE] = FIELD("last_trade_size_fp", RULE_DECIMAL_E2),
    [TICKER_TS] = FIELD("ts", RULE_TS),
    [TICKER_TS_MS] = FIELD("ts_ms", RULE_MS),
    [TICKER_TIME] = FIELD("time", RULE_SKIP),
    [TICKER_PRICE] = FIELD("price", RULE_CENTS),
    [TICKER_BID] = FIELD("yes_bid", RULE_CENTS),
    [TICKER_ASK] = FIELD("yes_ask", RULE_CENTS),
    [TICKER_VOLUME] = FIELD("volume", RULE_CONTRACTS),
    [TICKER_INTEREST] = FIELD("open_interest", RULE_CONTRACTS),
    [TICKER_CLOCK] = FIELD("Clock", RULE_SKIP),
    NO_MORE,
};
static const shape TICKER = SHAPE(TICKER_FIELDS);

/* The three ladders of a side stand in the order in which they count. */
enum {
    SNAPSHOT_MARKET,
    SNAPSHOT_MARKET_ID,
    SNAPSHOT_YES_FP,
    SNAPSHOT_NO_FP,
    SNAPSHOT_YES_DOLLARS,
    SNAPSHOT_NO_DOLLARS,
    SNAPSHOT_YES,
    SNAPSHOT_NO
};
static const field SNAPSHOT_FIELDS[] = {
    [SNAPSHOT_MARKET] = FIELD("market_ticker", RULE_TEXT),
    [SNAPSHOT_MARKET_ID] = FIELD("market_id", RULE_SKIP),
    [SNAPSHOT_YES_FP] = FIELD("yes_dollars_fp", RULE_LADDER),
    [SNAPSHOT_NO_FP] = FIELD("no_dollars_fp", RULE_LADDER),
    [SNAPSHOT_YES_DOLLARS] = FIELD("yes_dollars", RULE_LADDER),
    [SNAPSHOT_NO_DOLLARS] = FIELD("no_dollars", RULE_LADDER),
    [SNAPSHOT_YES] = FIELD("yes", RULE_LADDER),
    [SNAPSHOT_NO] = FIELD("no", RULE_LADDER),
    NO_MORE,
};
static const shape SNAPSHOT = SHAPE(SNAPSHOT_FIELDS);

enum {
    DELTA_MARKET,
    DELTA_MARKET_ID,
    DELTA_PRICE_DOLLARS,
    DELTA_DELTA_FP,
    DELTA_SIDE,
    DELTA_TS,
    DELTA_TS_MS,
    DELTA_CLIENT_ORDER_ID,
    DELTA_SUBACCOUNT,
    DELTA_PRICE,
    DELTA_DELTA
};
static const field DELTA_FIELDS[] = {
    [DELTA_MARKET] = FIELD("market_ticker", RULE_TEXT),
    [DELTA_MARKET_ID] = FIELD("market_id", RULE_SKIP),
    [DELTA_PRICE_DOLLARS] = FIELD("price_dollars", RULE_DECIMAL_E4),
    [DELTA_DELTA_FP] = FIELD("delta_fp", RULE_DECIMAL_E2),
    [DELTA_SIDE] = FIELD("side", RULE_TEXT),
    [DELTA_TS] = FIELD("ts", RULE_TS),
    [DELTA_TS_MS] = FIELD("ts_ms", RULE_MS),
    [DELTA_CLIENT_ORDER_ID] = FIELD("client_order_id", RULE_SKIP),
    [DELTA_SUBACCOUNT] = FIELD("subaccount", RULE_SKIP),
    [DELTA_PRICE] = FIELD("price", RULE_CENTS),
    [DELTA_DELTA] = FIELD("delta", RULE_CONTRACTS),
    NO_MORE,
};
static const shape DELTA = SHAPE(DELTA_FIELDS);

enum {
    LIFECYCLE_MARKET,
    LIFECYCLE_EXCHANGE_INDEX,
    LIFECYCLE_OPEN_TS,
    LIFECYCLE_CLOSE_TS,
    LIFECYCLE_METADATA,
    LIFECYCLE_DETERMINATION_TS,
    LIFECYCLE_RESULT,
    LIFECYCLE_SETTLEMENT_VALUE,
    LIFECYCLE_SETTLED_TS,
    LIFECYCLE_EVENT_TYPE,
    LIFECYCLE_EVENT,
    LIFECYCLE_FIRST_UNUSED
};
static const field LIFECYCLE_FIELDS[] = {
    [LIFECYCLE_MARKET] = FIELD("market_ticker", RULE_TEXT),
    [LIFECYCLE_EXCHANGE_INDEX] = FIELD("exchange_index", RULE_SKIP),
    [LIFECYCLE_OPEN_TS] = FIELD("open_ts", RULE_SECONDS),
    [LIFECYCLE_CLOSE_TS] = FIELD("close_ts", RULE_SECONDS),
    [LIFECYCLE_METADATA] = FIELD("additional_metadata", RULE_METADATA),
    [LIFECYCLE_DETERMINATION_TS] = FIELD("determination_ts", RULE_SECONDS),
    [LIFECYCLE_RESULT] = FIELD("result", RULE_TEXT),
    [LIFECYCLE_SETTLEMENT_VALUE] = FIELD("settlement_value", RULE_DECIMAL_E4),
    [LIFECYCLE_SETTLED_TS] = FIELD("settled_ts", RULE_SECONDS),
    [LIFECYCLE_EVENT_TYPE] = FIELD("event_type", RULE_TEXT),
    [LIFECYCLE_EVENT] = FIELD("event_ticker", RULE_TEXT),
    [LIFECYCLE_FIRST_UNUSED] = FIELD("price_level_structure", RULE_SKIP),
    FIELD("price_ranges", RULE_SKIP),
    FIELD("is_deactivated", RULE_SKIP),
    FIELD("strike_type", RULE_SKIP),
    FIELD("floor_strike", RULE_SKIP),
    FIELD("cap_strike", RULE_SKIP),
    FIELD("custom_strike", RULE_SKIP),
    FIELD("yes_sub_title", RULE_SKIP),
    FIELD("no_sub_title", RULE_SKIP),
    NO_MORE,
};
static const shape LIFECYCLE = SHAPE(LIFECYCLE_FIELDS);

enum { EVENT_TICKER };
static const field EVENT_LIFECYCLE_FIELDS[] = {
    [EVENT_TICKER] = FIELD("event_ticker", RULE_TEXT),
    FIELD("exchange_index", RULE_SKIP),
    FIELD("title", RULE_SKIP),
    FIELD("subtitle", RULE_SKIP),
    FIELD("sub_title", RULE_SKIP),
    FIELD("collateral_return_type", RULE_SKIP),
    FIELD("series_ticker", RULE_SKIP),
    FIELD("strike_date", RULE_SKIP),
    FIELD("strike_period", RULE_SKIP),
    NO_MORE,
};
static const shape EVENT_LIFECYCLE = SHAPE(EVENT_LIFECYCLE_FIELDS);

static const field EVENT_FEE_FIELDS[] = {
    [EVENT_TICKER] = FIELD("event_ticker", RULE_TEXT),
    FIELD("fee_type_override", RULE_SKIP),
    FIELD("fee_multiplier_override", RULE_SKIP),
    NO_MORE,
};
static const shape EVENT_FEE = SHAPE(EVENT_FEE_FIELDS);

enum {
    INDEX_NAME,
    INDEX_VALUE_USD,
    INDEX_SOURCE_TS_MS,
    INDEX_RECEIVED_AT,
    INDEX_DATA,
    INDEX_AVERAGE,
    INDEX_WINDOWED,
    INDEX_TS
};
#define INDEX_FIELDS(name) { \
    [INDEX_NAME] = FIELD(name, RULE_TEXT), \
    [INDEX_VALUE_USD] = FIELD("value_usd", RULE_DECIMAL_E8), \
    [INDEX_SOURCE_TS_MS] = FIELD("source_ts_ms", RULE_MS), \
    [INDEX_RECEIVED_AT] = FIELD("received_at", RULE_MS), \
    [INDEX_DATA] = FIELD("data", RULE_SKIP), \
    [INDEX_AVERAGE] = FIELD("avg_60s_data", RULE_AVERAGE), \
    [INDEX_WINDOWED] = FIELD("last_60s_windowed_average_15min", RULE_SKIP), \
    [INDEX_TS] = FIELD("ts", RULE_TS), \
    NO_MORE, \
}
static const field CFBENCHMARKS_FIELDS[] = INDEX_FIELDS("index_id");
static const field PYTH_FIELDS[] = INDEX_FIELDS("underlying_ticker");
static const shape CFBENCHMARKS = SHAPE(CFBENCHMARKS_FIELDS);
static const shape PYTH = SHAPE(PYTH_FIELDS);

enum { SUBSCRIBED_CHANNEL, SUBSCRIBED_SID };
static const field SUBSCRIBED_FIELDS[] = {
    [SUBSCRIBED_CHANNEL] = FIELD("channel", RULE_TEXT),
    [SUBSCRIBED_SID] = FIELD("sid", RULE_U32),
    NO_MORE,
};
static const shape SUBSCRIBED = SHAPE(SUBSCRIBED_FIELDS);

enum { ERROR_CODE, ERROR_MESSAGE };
static const field ERROR_FIELDS[] = {
    [ERROR_CODE] = FIELD("code", RULE_U32),
    [ERROR_MESSAGE] = FIELD("msg", RULE_TEXT_LENIENT),
    FIELD("market_ticker", RULE_SKIP),
    FIELD("market_tickers", RULE_SKIP),
    NO_MORE,
};
static const shape ERROR = SHAPE(ERROR_FIELDS);

/* clang-format on */
#define FITS(table) _Static_assert(sizeof table / sizeof *table - 2 < SSMD_MESSAGE_FIELDS, "more fields than values")
FITS(TRADE_FIELDS);
FITS(TICKER_FIELDS);
FITS(LIFECYCLE_FIELDS);

/* ---- types -------------------------------------------------------------------------------- */

typedef enum type_id {
    TYPE_DELTA,
    TYPE_TICKER,
    TYPE_TRADE,
    TYPE_SNAPSHOT,
    TYPE_LIFECYCLE,
    TYPE_EVENT_LIFECYCLE,
    TYPE_EVENT_FEE,
    TYPE_INDEX,
    TYPE_SUBSCRIBED,
    TYPE_CONTROL, /* ok, unsubscribed: nothing of msg */
    TYPE_ERROR,
    TYPE_NOT_DECODED
} type_id;

typedef struct ssmd_type_row {
    field name;       /* with its closing quote */
    const shape *msg; /* NULL: msg may be anything */
    uint8_t id;
    uint8_t kind;
    uint8_t variant; /* Control.Type, IndexValue.Source, or 1 = multivariate */
    bool sequenced;
} type_row;

/* clang-format off */
#define ROW(name, shape, id, kind, variant, sequenced) {{name "\"", sizeof name, 0}, shape, id, SSMD_KIND_##kind, variant, sequenced}
#define ROW_NOT_DECODED(name) ROW(name, NULL, TYPE_NOT_DECODED, UNPARSED, 0, false)

/* Most frequent first: a type is found by comparing. */
static const type_row TYPES[] = {
    ROW("orderbook_delta", &DELTA, TYPE_DELTA, BOOK, 0, true),
    ROW("ticker", &TICKER, TYPE_TICKER, TICKER, 0, false),
    ROW("trade", &TRADE, TYPE_TRADE, TRADE, 0, true),
    ROW("orderbook_snapshot", &SNAPSHOT, TYPE_SNAPSHOT, BOOK, 0, true),
    ROW("market_lifecycle_v2", &LIFECYCLE, TYPE_LIFECYCLE, STATUS, 0, true),
    ROW("multivariate_market_lifecycle", &LIFECYCLE, TYPE_LIFECYCLE, STATUS, 1, true),
    ROW("cfbenchmarks_value", &CFBENCHMARKS, TYPE_INDEX, INDEX, 0, true),
    ROW("cfbenchmarks_value_5hz", &CFBENCHMARKS, TYPE_INDEX, INDEX, 1, true),
    ROW("pyth_value", &PYTH, TYPE_INDEX, INDEX, 2, true),
    ROW("event_lifecycle", &EVENT_LIFECYCLE, TYPE_EVENT_LIFECYCLE, STATUS, 0, true),
    ROW("event_fee_update", &EVENT_FEE, TYPE_EVENT_FEE, STATUS, 0, true),
    ROW("subscribed", &SUBSCRIBED, TYPE_SUBSCRIBED, CONTROL, 0, false),
    ROW("ok", NULL, TYPE_CONTROL, CONTROL, 1, false),
    ROW("unsubscribed", NULL, TYPE_CONTROL, CONTROL, 2, false),
    ROW("error", &ERROR, TYPE_ERROR, CONTROL, 3, false),
    ROW_NOT_DECODED("fill"),
    ROW_NOT_DECODED("market_position"),
    ROW_NOT_DECODED("user_order"),
    ROW_NOT_DECODED("order_group_updates"),
    ROW_NOT_DECODED("rfq_created"),
    ROW_NOT_DECODED("rfq_deleted"),
    ROW_NOT_DECODED("quote_created"),
    ROW_NOT_DECODED("quote_accepted"),
    ROW_NOT_DECODED("quote_executed"),
    ROW_NOT_DECODED("cfbenchmarks_value_indexlist"),
    ROW_NOT_DECODED("cfbenchmarks_value_5hz_indexlist"),
    ROW_NOT_DECODED("pyth_value_underlying_list"),
};
/* clang-format on */
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

/* Event types of lifecycle messages, by the ordinals of MarketStatusUpdate.Change. */
enum { CHANGE_UNKNOWN = 0, CHANGE_CREATED = 1, CHANGE_EVENT_CREATED = 9, CHANGE_EVENT_FEE = 10 };
static const char *const CHANGES[] = {"",
                                      "created",
                                      "activated",
                                      "deactivated",
                                      "close_date_updated",
                                      "determined",
                                      "settled",
                                      "price_level_structure_updated",
                                      "metadata_updated"};
enum { CHANGE_COUNT = sizeof CHANGES / sizeof *CHANGES };

static uint32_t change_find(ssmd_text name)
{
    for (uint32_t i = CHANGE_CREATED; i < CHANGE_COUNT; i++)
        if (strlen(CHANGES[i]) == name.n && memcmp(CHANGES[i], name.at, name.n) == 0)
            return i;
    return CHANGE_UNKNOWN;
}

static bool text_is(ssmd_text text, const char *word, size_t n)
{
    return text.n == n && memcmp(text.at, word, n) == 0;
}

/* ---- reading values ----------------------------------------------------------------------- */

enum { INSIDE_ENVELOPE = 1, INSIDE_MSG = 2 }; /* open brackets around a value there */

static const int64_t LIMIT_MS = 9000000000000, LIMIT_SECONDS = 9000000000; /* the year 2255: the ns fit */

/* One price or count of a level; the type of the value decides how it is read. NULL: no level has this. */
static const uint8_t *level_number(const uint8_t *at, bool price, int64_t *value)
{
    ssmd_json_state state = SSMD_ABSENT;
    if (*at == '"') {
        at = price ? ssmd_json_fixed4(at, 0, value, &state) : ssmd_json_fixed2(at, 0, value, &state);
    } else if (*at == '-' || ssmd_is_digit(*at)) {
        at = ssmd_json_int(at, 0, value, &state);
        if (state == SSMD_PRESENT)
            *value *= 100;
    }
    return state == SSMD_PRESENT ? at : NULL;
}

static const uint8_t *step_over(const uint8_t *at, uint8_t byte)
{
    at = ssmd_json_space(at);
    return *at == byte ? ssmd_json_space(at + 1) : NULL;
}

/* One level [price, count] to behind its bracket; NULL: it is none. */
static const uint8_t *level_read(const uint8_t *at, int32_t *price_e4, int64_t *count_e2)
{
    int64_t price = 0;
    if ((at = step_over(at, '[')) == NULL || (at = level_number(at, true, &price)) == NULL ||
        (at = step_over(at, ',')) == NULL || (at = level_number(at, false, count_e2)) == NULL)
        return NULL;
    at = ssmd_json_space(at);
    *price_e4 = (int32_t)price;
    return *at == ']' && price >= INT32_MIN && price <= INT32_MAX ? at + 1 : NULL;
}

/* An array of levels, checked and counted, to behind its bracket; NULL: it is none. */
static const uint8_t *ladder_read(const uint8_t *at, ssmd_field_value *value)
{
    value->at = at;
    value->n = 0;
    value->lowest = INT32_MAX;
    at = ssmd_json_space(at + 1);
    if (*at == ']')
        return at + 1;
    for (;; at = ssmd_json_space(at + 1)) {
        int32_t price;
        int64_t count;
        at = level_read(at, &price, &count);
        if (at == NULL)
            return NULL;
        value->n++;
        if (price < value->lowest)
            value->lowest = price;
        at = ssmd_json_space(at);
        if (*at != ',')
            return *at == ']' ? at + 1 : NULL;
    }
}

/* What is no ladder is walked over as any value. */
static const uint8_t *read_ladder(const uint8_t *at, ssmd_field_value *value, ssmd_json_state *state)
{
    const uint8_t *behind = *at == '[' ? ladder_read(at, value) : NULL;
    *state = behind != NULL ? SSMD_PRESENT : *at == 'n' ? SSMD_ABSENT : SSMD_MALFORMED;
    return behind != NULL ? behind : ssmd_json_skip(at, INSIDE_MSG);
}

/* A ladder that was read before, written as levels. */
static void write_ladder(uint8_t *to, const ssmd_ladder *ladder)
{
    const uint8_t *at = ladder->at;
    for (size_t i = 0; i < ladder->levels; i++, to += SSMD_LEVEL_BYTES) {
        int32_t price = 0;
        int64_t count = 0;
        at = level_read(ssmd_json_space(at + 1), &price, &count); /* behind the bracket, or the comma */
        ssmd_store32i(to, ladder->inverted ? 10000 - price : price);
        ssmd_store32(to + 4, 0);
        ssmd_store64i(to + 8, count);
        at = ssmd_json_space(at);
    }
}

static const uint8_t *read_average(const uint8_t *at, int64_t *value, ssmd_json_state *state)
{
    const uint8_t *behind = ssmd_json_skip(at, INSIDE_MSG);
    *state = *at == '{' || *at == 'n' ? SSMD_ABSENT : SSMD_MALFORMED;
    const uint8_t *member = behind != NULL ? ssmd_json_member(at, "value", 5) : NULL;
    if (member != NULL)
        ssmd_json_fixed_slow(member, INSIDE_MSG, 8, value, state);
    return behind;
}

static const uint8_t *read_metadata(const uint8_t *at, ssmd_text *event, ssmd_json_state *state)
{
    const uint8_t *behind = ssmd_json_skip(at, INSIDE_MSG);
    const uint8_t *member = behind != NULL ? ssmd_json_member(at, "event_ticker", 12) : NULL;
    *state = SSMD_ABSENT;
    if (member != NULL)
        ssmd_json_text(member, INSIDE_MSG, event, state);
    if (*state == SSMD_MALFORMED)
        *state = SSMD_ABSENT;
    return behind;
}

static const uint8_t *read_bool(const uint8_t *at, int64_t *value, ssmd_json_state *state)
{
    *value = *at == 't';
    *state = *at == 'n' ? SSMD_ABSENT : *at == 't' || *at == 'f' ? SSMD_PRESENT : SSMD_MALFORMED;
    return ssmd_json_skip(at, INSIDE_MSG);
}

/* An int between 0 and limit, times scale. */
SSMD_INLINE const uint8_t *read_scaled(const uint8_t *at, unsigned depth, int64_t limit, int64_t scale, int64_t *value,
                                       ssmd_json_state *state)
{
    at = ssmd_json_int(at, depth, value, state);
    if (SSMD_LIKELY(*state == SSMD_PRESENT)) {
        if (SSMD_LIKELY(*value >= 0 && *value < limit))
            *value *= scale;
        else
            *state = SSMD_MALFORMED;
    }
    return at;
}

SSMD_INLINE ssmd_json_state fit_int32(int64_t value, ssmd_json_state state)
{
    return state == SSMD_PRESENT && (value < INT32_MIN || value > INT32_MAX) ? SSMD_MALFORMED : state;
}

static const uint8_t *read_msg(ssmd_message *message, const uint8_t *at, ssmd_json_state *state);

/* Rules that no frequent field has. */
static __attribute__((noinline)) const uint8_t *read_rare(rule how, const uint8_t *at, unsigned depth,
                                                          ssmd_field_value *value, ssmd_json_state *state)
{
    ssmd_text text = {NULL, 0};
    switch (how) {
    case RULE_DECIMAL_E8: return ssmd_json_fixed_slow(at, depth, 8, &value->number, state);
    case RULE_CENTS:
    case RULE_CONTRACTS:
        at = ssmd_json_int(at, depth, &value->number, state);
        if (*state == SSMD_PRESENT)
            value->number *= 100;
        if (how == RULE_CENTS)
            *state = fit_int32(value->number, *state);
        return at;
    case RULE_BOOL: return read_bool(at, &value->number, state);
    case RULE_LADDER: return read_ladder(at, value, state);
    case RULE_AVERAGE: return read_average(at, &value->number, state);
    case RULE_METADATA:
        at = read_metadata(at, &text, state);
        value->at = text.at;
        value->n = text.n;
        return at;
    case RULE_SECONDS: return read_scaled(at, depth, LIMIT_SECONDS, 1000000000, &value->number, state);
    default: *state = SSMD_ABSENT; return ssmd_json_skip(at, depth);
    }
}

/* The value of one known field. */
SSMD_INLINE const uint8_t *read_value(ssmd_message *message, rule how, const uint8_t *at, unsigned depth,
                                      ssmd_field_value *value, ssmd_json_state *state)
{
    ssmd_text text;
    bool escaped;
    switch (how) {
    case RULE_TEXT:
    case RULE_TEXT_LENIENT:
        at = ssmd_json_text(at, depth, &text, state);
        value->at = text.at;
        value->n = text.n;
        return at;
    case RULE_DECIMAL_E4:
        at = ssmd_json_fixed4(at, depth, &value->number, state);
        *state = fit_int32(value->number, *state);
        return at;
    case RULE_DECIMAL_E2: return ssmd_json_fixed2(at, depth, &value->number, state);
    case RULE_INT_LENIENT: return ssmd_json_int(at, depth, &value->number, state);
    case RULE_U32: return read_scaled(at, depth, (int64_t)UINT32_MAX + 1, 1, &value->number, state);
    case RULE_COUNTING: return read_scaled(at, depth, INT64_MAX, 1, &value->number, state);
    case RULE_MS: return read_scaled(at, depth, LIMIT_MS, 1000000, &value->number, state);
    case RULE_TS:
        value->n = *at == '"';
        if (value->n == 0)
            return read_scaled(at, depth, LIMIT_SECONDS, 1000000000, &value->number, state);
        at = ssmd_json_text(at, depth, &text, state);
        if (*state == SSMD_PRESENT)
            *state = ssmd_json_rfc3339(text, &value->number);
        return at;
    case RULE_MSG: return read_msg(message, at, state);
    case RULE_SKIP:
        *state = SSMD_ABSENT;
        return SSMD_LIKELY(*at == '"') ? ssmd_json_string(at, &text, &escaped) : ssmd_json_skip(at, depth);
    default: return read_rare(how, at, depth, value, state);
    }
}

/* ---- reading objects ---------------------------------------------------------------------- */

/* Does this key, colon included (or this type, closing quote included), stand at `at`? The entry that closes a table
 * matches nothing that is JSON. */
SSMD_INLINE bool key_is(const field *expected, const uint8_t *at)
{
#ifdef SSMD_JSON_SSE2
    const __m128i *text = (const __m128i *)(const void *)at, *key = (const __m128i *)(const void *)expected->literal;
    uint64_t equal = (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(text), _mm_loadu_si128(key)));
    if (expected->bytes > 16) {
        const __m128i more = _mm_cmpeq_epi8(_mm_loadu_si128(text + 1), _mm_loadu_si128(key + 1));
        equal |= (uint64_t)_mm_movemask_epi8(more) << 16;
        if (SSMD_UNLIKELY(expected->bytes > 32))
            return expected->bytes <= sizeof expected->literal && memcmp(at, expected->literal, expected->bytes) == 0;
    }
    return (~equal << (64 - expected->bytes)) == 0;
#else
    return expected->bytes <= sizeof expected->literal && memcmp(at, expected->literal, expected->bytes) == 0;
#endif
}

/* The row of a type; `name` is a string of the frame, so its closing quote follows. */
static const type_row *type_find(ssmd_text name)
{
    for (unsigned i = 0; i < TYPE_COUNT; i++)
        if (key_is(&TYPES[i].name, name.at))
            return &TYPES[i];
    return NULL;
}

/* The number of the field with this name, or keys->count. */
static unsigned field_find(const shape *keys, ssmd_text name)
{
    for (unsigned i = 0; i < keys->count; i++)
        if (keys->fields[i].bytes == name.n + 3 && memcmp(keys->fields[i].literal + 1, name.at, name.n) == 0)
            return i;
    return keys->count;
}

/* A key in another order than the wire's, or an unknown one, or none: to the first byte of its value. */
static __attribute__((noinline)) const uint8_t *read_key(const shape *keys, const uint8_t *at, unsigned *number,
                                                         ssmd_fields *found)
{
    ssmd_text name;
    bool escaped;
    if (*at != '"' || (at = ssmd_json_string(at, &name, &escaped)) == NULL)
        return NULL;
    at = ssmd_json_space(at);
    if (*at != ':')
        return NULL;
    *number = escaped ? keys->count : field_find(keys, name);
    if (*number == keys->count) {
        if (found->unknowns < SSMD_MESSAGE_UNKNOWNS)
            found->unknown[found->unknowns] = name;
        found->unknowns++;
    }
    return at + 1;
}

/* The object whose opening bracket is at `at`, inside depth - 1 others. */
SSMD_INLINE const uint8_t *read_object(ssmd_message *message, const shape *keys, ssmd_fields *found, unsigned depth,
                                       const uint8_t *at)
{
    const field *fields = keys->fields;
    unsigned next = 0, highest = 0; /* the field expected next; the end of those that may have come already */
    found->present = found->bad = found->odd = found->unknowns = 0;
    at = ssmd_json_space(at + 1);
    if (*at == '}')
        return at + 1;
    for (;;) {
        unsigned number = next;
        ssmd_json_state state = SSMD_ABSENT;
        if (SSMD_LIKELY(key_is(&fields[next], at))) {
            at += fields[next].bytes;
        } else if (key_is(&fields[next + 1], at)) {
            number = next + 1;
            at += fields[number].bytes;
        } else if ((at = read_key(keys, ssmd_json_space(at), &number, found)) == NULL) {
            return NULL;
        }
        at = ssmd_json_space(at);
        at = read_value(message, (rule)fields[number].rule, at, depth, &found->values[number], &state);
        if (SSMD_UNLIKELY(at == NULL))
            return NULL;
        uint32_t bit = 1u << number;
        if (SSMD_UNLIKELY(number < highest)) { /* perhaps again: only the last one counts */
            found->present &= ~bit;
            found->bad &= ~bit;
            found->odd &= ~bit;
        } else {
            highest = number + 1;
        }
        if (SSMD_LIKELY(state == SSMD_PRESENT))
            found->present |= bit;
        else if (SSMD_UNLIKELY(state == SSMD_MALFORMED))
            *(fields[number].rule > RULE_LENIENT ? &found->odd : &found->bad) |= bit;
        next = SSMD_LIKELY(number < keys->count) ? number + 1 : next;
        if (SSMD_UNLIKELY(*at != ',')) {
            at = ssmd_json_space(at);
            if (*at != ',')
                return *at == '}' ? at + 1 : NULL;
        }
        at++;
    }
}

/* Two copies, so that the branches of each learn their own order. */
static __attribute__((noinline)) const uint8_t *read_fields_of_msg(ssmd_message *message, const type_row *row,
                                                                   const uint8_t *at)
{
    return read_object(message, row->msg, &message->msg, INSIDE_MSG, at);
}

static const uint8_t *read_envelope(ssmd_message *message, const uint8_t *at)
{
    return read_object(message, &ENVELOPE, &message->envelope, INSIDE_ENVELOPE, at);
}

static bool has(const ssmd_fields *fields, unsigned number)
{
    return fields->present >> number & 1;
}

static ssmd_text text_of(const ssmd_fields *fields, unsigned number)
{
    const ssmd_field_value *value = &fields->values[number];
    return has(fields, number) ? (ssmd_text){value->at, value->n} : (ssmd_text){NULL, 0};
}

/* `msg` is read under the type that is known by now, which is nearly always the final one (the exchange sends it
 * first); else decode comes back to it. */
static const uint8_t *read_msg(ssmd_message *message, const uint8_t *at, ssmd_json_state *state)
{
    message->msg_at = at;
    message->msg_row = NULL;
    *state = *at == '{' ? SSMD_PRESENT : *at == 'n' ? SSMD_ABSENT : SSMD_MALFORMED;
    if (*at == '{' && has(&message->envelope, ENVELOPE_TYPE)) {
        ssmd_text type = text_of(&message->envelope, ENVELOPE_TYPE);
        message->row = type_find(type);
        message->msg_type_at = type.at;
        if (message->row != NULL && message->row->msg != NULL) {
            message->msg_row = message->row;
            return read_fields_of_msg(message, message->row, at);
        }
    }
    return ssmd_json_skip(at, INSIDE_ENVELOPE);
}

/* ---- what it means ------------------------------------------------------------------------ */

enum { RECORDED_TYPE_BYTES = 64 }; /* a longer type is not repeated in the record */

/* The type as an unparsed record names it. The message keeps it whole, for those who tell of new types. */
static ssmd_text recorded_type(const ssmd_message *message)
{
    return message->type.n <= RECORDED_TYPE_BYTES ? message->type : (ssmd_text){NULL, 0};
}

static void become_unparsed(ssmd_message *message, ssmd_reason reason)
{
    message->kind = SSMD_KIND_UNPARSED;
    message->reason = reason;
    message->exchange_ns = 0;
    message->market = message->unknown_value = (ssmd_text){NULL, 0};
    message->record_bytes = ssmd_fixed_bytes(SSMD_KIND_UNPARSED) + ssmd_text_bytes(recorded_type(message).n) +
                            ssmd_data_bytes(message->frame.n);
}

/* The value of the first of two fields that is there. False: neither. */
static bool first_number(const ssmd_fields *fields, unsigned better, unsigned other, int64_t *value)
{
    unsigned number = has(fields, better) ? better : other;
    *value = has(fields, number) ? fields->values[number].number : 0;
    return has(fields, number);
}

/* `ts` as RFC 3339, else milliseconds, else `ts` in seconds. */
static int64_t exchange_time(const ssmd_fields *fields, unsigned ts, unsigned ms)
{
    bool exact = has(fields, ts) && fields->values[ts].n == 1;
    if (!exact && has(fields, ms))
        return fields->values[ms].number;
    return has(fields, ts) ? fields->values[ts].number : 0;
}

static bool resolve_trade(ssmd_message *message)
{
    const ssmd_fields *fields = &message->msg;
    int64_t price;
    bool complete = first_number(fields, TRADE_YES_PRICE_DOLLARS, TRADE_YES_PRICE, &price);
    complete &= first_number(fields, TRADE_COUNT_FP, TRADE_COUNT, &message->count_e2[0]);
    message->price_e4[0] = (int32_t)price;
    message->market = text_of(fields, TRADE_MARKET);
    message->texts[1] = text_of(fields, TRADE_ID);
    ssmd_text taker =
        text_of(fields, has(fields, TRADE_TAKER_OUTCOME_SIDE) ? TRADE_TAKER_OUTCOME_SIDE : TRADE_TAKER_SIDE);
    message->side = text_is(taker, "yes", 3) ? 1 : text_is(taker, "no", 2) ? 2 : 0;
    if (message->side == 0)
        message->unknown_value = taker;
    message->block = has(fields, TRADE_BLOCK) && fields->values[TRADE_BLOCK].number != 0;
    message->exchange_ns = exchange_time(fields, TRADE_TS, TRADE_TS_MS);
    return complete && message->market.n > 0;
}

static bool resolve_ticker(ssmd_message *message)
{
    const ssmd_fields *fields = &message->msg;
    static const uint8_t PRICES[3][2] = {
        {TICKER_PRICE_DOLLARS, TICKER_PRICE}, {TICKER_BID_DOLLARS, TICKER_BID}, {TICKER_ASK_DOLLARS, TICKER_ASK}};
    static const uint8_t COUNTS[7][2] = {{TICKER_VOLUME_FP, TICKER_VOLUME},
                                         {TICKER_INTEREST_FP, TICKER_INTEREST},
                                         {TICKER_DOLLAR_VOLUME, TICKER_DOLLAR_VOLUME},
                                         {TICKER_DOLLAR_INTEREST, TICKER_DOLLAR_INTEREST},
                                         {TICKER_BID_SIZE, TICKER_BID_SIZE},
                                         {TICKER_ASK_SIZE, TICKER_ASK_SIZE},
                                         {TICKER_LAST_SIZE, TICKER_LAST_SIZE}};
    uint32_t present = 0;
    int64_t value;
    for (unsigned i = 0; i < 3; i++) { /* ordinals 2, 3, 4 */
        present |= (uint32_t)first_number(fields, PRICES[i][0], PRICES[i][1], &value) << (2 + i);
        message->price_e4[i] = (int32_t)value;
    }
    for (unsigned i = 0; i < 7; i++) /* ordinals 5 .. 11 */
        present |= (uint32_t)first_number(fields, COUNTS[i][0], COUNTS[i][1], &message->count_e2[i]) << (5 + i);
    message->present = present;
    message->market = text_of(fields, TICKER_MARKET);
    message->exchange_ns = exchange_time(fields, TICKER_TS, TICKER_TS_MS);
    return message->market.n > 0;
}

/* 10000 - price; false when that is no Int32. */
static bool invert(int32_t *price_e4)
{
    int64_t inverted = 10000 - (int64_t)*price_e4;
    *price_e4 = (int32_t)inverted;
    return inverted <= INT32_MAX;
}

/* Side of a delta: 0 = absent, 1 = yes, 2 = no, 3 = anything else. */
static uint32_t delta_side(const ssmd_fields *fields)
{
    ssmd_text side = text_of(fields, DELTA_SIDE);
    return side.n == 0 ? 0 : text_is(side, "yes", 3) ? 1 : text_is(side, "no", 2) ? 2 : 3;
}

static bool resolve_delta(ssmd_message *message)
{
    const ssmd_fields *fields = &message->msg;
    int64_t price;
    bool complete = first_number(fields, DELTA_PRICE_DOLLARS, DELTA_PRICE, &price);
    complete &= first_number(fields, DELTA_DELTA_FP, DELTA_DELTA, &message->count_e2[0]);
    message->price_e4[0] = (int32_t)price;
    message->market = text_of(fields, DELTA_MARKET);
    message->side = delta_side(fields);
    message->snapshot = false;
    message->yes_scale = (message->flags & SSMD_FRAME_USE_YES_PRICE) != 0 && has(fields, DELTA_DELTA_FP);
    message->exchange_ns = exchange_time(fields, DELTA_TS, DELTA_TS_MS);
    return complete && message->side != 0 && message->market.n > 0;
}

static const uint8_t BID_LADDERS[3] = {SNAPSHOT_YES_FP, SNAPSHOT_YES_DOLLARS, SNAPSHOT_YES};
static const uint8_t ASK_LADDERS[3] = {SNAPSHOT_NO_FP, SNAPSHOT_NO_DOLLARS, SNAPSHOT_NO};

/* The first ladder of a side that is there; NULL: none. */
static const ssmd_field_value *ladder_in_use(const ssmd_fields *fields, const uint8_t ladders[3], unsigned *which)
{
    for (unsigned i = 0; i < 3; i++)
        if (has(fields, ladders[i])) {
            *which = i;
            return &fields->values[ladders[i]];
        }
    return NULL;
}

static bool resolve_snapshot(ssmd_message *message)
{
    const ssmd_fields *fields = &message->msg;
    unsigned bid_key = 0, ask_key = 0;
    const ssmd_field_value *bids = ladder_in_use(fields, BID_LADDERS, &bid_key);
    const ssmd_field_value *asks = ladder_in_use(fields, ASK_LADDERS, &ask_key);
    bool mode = (message->flags & SSMD_FRAME_USE_YES_PRICE) != 0;
    bool new_format = has(fields, SNAPSHOT_YES_FP) || has(fields, SNAPSHOT_NO_FP) || (bids == NULL && asks == NULL);
    message->bids = bids == NULL ? (ssmd_ladder){NULL, 0, false} : (ssmd_ladder){bids->at, bids->n, false};
    message->asks =
        asks == NULL ? (ssmd_ladder){NULL, 0, false} : (ssmd_ladder){asks->at, asks->n, !(mode && ask_key == 0)};
    message->market = text_of(fields, SNAPSHOT_MARKET);
    message->snapshot = true;
    message->yes_scale = mode && new_format;
    message->side = 0;
    message->price_e4[0] = 0;
    message->count_e2[0] = 0;
    return message->market.n > 0;
}

static bool resolve_lifecycle(ssmd_message *message)
{
    const ssmd_fields *fields = &message->msg;
    static const uint8_t TIMES[4] = {LIFECYCLE_OPEN_TS, LIFECYCLE_CLOSE_TS, LIFECYCLE_DETERMINATION_TS,
                                     LIFECYCLE_SETTLED_TS};
    ssmd_text change = text_of(fields, LIFECYCLE_EVENT_TYPE);
    message->change = change_find(change);
    message->market = message->texts[0] = text_of(fields, LIFECYCLE_MARKET);
    message->texts[1] = text_of(fields, LIFECYCLE_EVENT);
    if (message->texts[1].n == 0 && message->change == CHANGE_CREATED)
        message->texts[1] = text_of(fields, LIFECYCLE_METADATA);
    message->texts[2] = text_of(fields, LIFECYCLE_RESULT);
    message->texts[3] = message->change == CHANGE_UNKNOWN ? change : (ssmd_text){NULL, 0};
    message->unknown_value = message->texts[3];
    for (unsigned i = 0; i < 4; i++)
        message->times_ns[i] = has(fields, TIMES[i]) ? fields->values[TIMES[i]].number : 0;
    message->has_settlement = has(fields, LIFECYCLE_SETTLEMENT_VALUE);
    message->price_e4[0] = message->has_settlement ? (int32_t)fields->values[LIFECYCLE_SETTLEMENT_VALUE].number : 0;
    message->multivariate = message->row->variant != 0;
    return change.n > 0;
}

static bool resolve_event(ssmd_message *message, uint32_t change)
{
    message->change = change;
    message->has_settlement = message->multivariate = false;
    message->price_e4[0] = 0;
    for (unsigned i = 0; i < 4; i++) {
        message->times_ns[i] = 0;
        message->texts[i] = (ssmd_text){NULL, 0};
    }
    message->texts[1] = text_of(&message->msg, EVENT_TICKER);
    return message->texts[1].n > 0;
}

static bool resolve_index(ssmd_message *message)
{
    const ssmd_fields *fields = &message->msg;
    message->texts[0] = text_of(fields, INDEX_NAME);
    message->has_value = first_number(fields, INDEX_VALUE_USD, INDEX_VALUE_USD, &message->count_e2[0]);
    message->has_average = first_number(fields, INDEX_AVERAGE, INDEX_AVERAGE, &message->count_e2[1]);
    first_number(fields, INDEX_RECEIVED_AT, INDEX_RECEIVED_AT, &message->times_ns[0]);
    message->exchange_ns = exchange_time(fields, INDEX_TS, INDEX_SOURCE_TS_MS);
    return message->texts[0].n > 0;
}

static bool resolve_control(ssmd_message *message)
{
    const ssmd_fields *fields = &message->msg;
    int64_t number = 0;
    bool complete = true;
    message->control_sid = message->sid;
    message->code = 0;
    message->texts[0] = message->texts[1] = (ssmd_text){NULL, 0};
    if (message->row->id == TYPE_SUBSCRIBED) {
        message->texts[0] = text_of(fields, SUBSCRIBED_CHANNEL);
        complete = first_number(fields, SUBSCRIBED_SID, SUBSCRIBED_SID, &number) && message->texts[0].n > 0;
        message->control_sid = (uint32_t)number;
    } else if (message->row->id == TYPE_ERROR) {
        complete = first_number(fields, ERROR_CODE, ERROR_CODE, &number);
        message->code = (uint32_t)number;
        message->texts[1] = text_of(fields, ERROR_MESSAGE);
    }
    return complete;
}

/* Fills the body; false: a field is missing without which the message means nothing. */
static bool resolve(ssmd_message *message)
{
    switch ((type_id)message->row->id) {
    case TYPE_DELTA: return resolve_delta(message);
    case TYPE_TICKER: return resolve_ticker(message);
    case TYPE_TRADE: return resolve_trade(message);
    case TYPE_SNAPSHOT: return resolve_snapshot(message);
    case TYPE_LIFECYCLE: return resolve_lifecycle(message);
    case TYPE_EVENT_LIFECYCLE: return resolve_event(message, CHANGE_EVENT_CREATED);
    case TYPE_EVENT_FEE: return resolve_event(message, CHANGE_EVENT_FEE);
    case TYPE_INDEX: return resolve_index(message);
    case TYPE_SUBSCRIBED:
    case TYPE_CONTROL:
    case TYPE_ERROR: return resolve_control(message);
    case TYPE_NOT_DECODED: break;
    }
    return false;
}

/* Puts NO prices on the YES scale; false: one does not fit. */
static bool rescale(ssmd_message *message)
{
    if (message->kind != SSMD_KIND_BOOK)
        return true;
    if (!message->snapshot)
        return message->side != 2 || message->yes_scale || invert(&message->price_e4[0]);
    unsigned which = 0;
    const ssmd_field_value *asks = ladder_in_use(&message->msg, ASK_LADDERS, &which);
    int32_t lowest = asks != NULL && asks->n > 0 ? asks->lowest : 0;
    return !message->asks.inverted || invert(&lowest);
}

static size_t texts_bytes(const ssmd_message *message, unsigned count)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += ssmd_text_bytes(message->texts[i].n);
    return bytes;
}

static size_t decoded_bytes(const ssmd_message *message)
{
    size_t bytes = ssmd_fixed_bytes(message->kind);
    if ((message->flags & SSMD_FRAME_KEEP) != 0)
        bytes += ssmd_data_bytes(message->frame.n);
    switch (message->kind) {
    case SSMD_KIND_TRADE: return bytes + ssmd_text_bytes(message->market.n) + ssmd_text_bytes(message->texts[1].n);
    case SSMD_KIND_TICKER: return bytes + ssmd_text_bytes(message->market.n);
    case SSMD_KIND_BOOK:
        bytes += ssmd_text_bytes(message->market.n);
        return message->snapshot
                   ? bytes + ssmd_levels_bytes(message->bids.levels) + ssmd_levels_bytes(message->asks.levels)
                   : bytes;
    case SSMD_KIND_STATUS: return bytes + texts_bytes(message, 4);
    case SSMD_KIND_INDEX: return bytes + texts_bytes(message, 1);
    default: return bytes + texts_bytes(message, 2); /* control */
    }
}

static uint32_t bits(uint32_t mask)
{
    return mask == 0 ? 0 : (uint32_t)__builtin_popcount(mask);
}

/* Reasons in the order in which they win (docs/records.md, "JSON"). */
static void judge(ssmd_message *message, uint64_t limit_bytes)
{
    ssmd_fields *envelope = &message->envelope;
    const type_row *row = message->row;
    if (message->type.n == 0) {
        become_unparsed(message, SSMD_REASON_NO_TYPE);
        return;
    }
    if ((envelope->bad & (1u << ENVELOPE_SID | 1u << ENVELOPE_SEQ)) != 0) {
        become_unparsed(message, SSMD_REASON_BAD_FIELD);
        return;
    }
    if (row == NULL || row->id == TYPE_NOT_DECODED) {
        become_unparsed(message, row == NULL ? SSMD_REASON_UNKNOWN_TYPE : SSMD_REASON_NOT_DECODED);
        return;
    }
    bool msg_read = message->msg_read = row->msg != NULL && has(envelope, ENVELOPE_MSG);
    message->unknown_fields = envelope->unknowns + (msg_read ? message->msg.unknowns : 0);
    message->malformed = bits(envelope->odd) + (msg_read ? bits(message->msg.odd) : 0);
    if (row->msg != NULL && !msg_read) {
        bool absent = (envelope->bad >> ENVELOPE_MSG & 1) == 0;
        become_unparsed(message, absent ? SSMD_REASON_MISSING_FIELD : SSMD_REASON_BAD_FIELD);
        return;
    }
    bool bad = (envelope->bad >> ENVELOPE_ID & 1) != 0 || (msg_read && message->msg.bad != 0);
    message->kind = (ssmd_kind)row->kind;
    if (bad || (row->id == TYPE_DELTA && delta_side(&message->msg) == 3)) {
        become_unparsed(message, SSMD_REASON_BAD_FIELD);
    } else if (!resolve(message)) {
        become_unparsed(message, SSMD_REASON_MISSING_FIELD);
    } else if (!rescale(message)) {
        become_unparsed(message, SSMD_REASON_BAD_FIELD);
    } else {
        message->record_bytes = decoded_bytes(message);
        if (message->record_bytes > limit_bytes)
            become_unparsed(message, SSMD_REASON_TOO_COMPLEX);
    }
}

/* The envelope, with `msg` read under the type that counts in the end. False: a JSON fault. */
static bool read_frame(ssmd_message *message)
{
    const uint8_t *at = ssmd_json_space(message->frame.at), *end = message->frame.at + message->frame.n;
    if (*at != '{')
        return false;
    at = read_envelope(message, at);
    if (at == NULL || ssmd_json_space(at) != end)
        return false;
    message->type = text_of(&message->envelope, ENVELOPE_TYPE);
    if (message->msg_row != NULL && message->type.at == message->msg_type_at)
        return true;
    message->row = message->type.n > 0 ? type_find(message->type) : NULL;
    if (has(&message->envelope, ENVELOPE_MSG) && message->row != NULL && message->row->msg != NULL &&
        message->msg_row != message->row)
        read_fields_of_msg(message, message->row, message->msg_at);
    return true;
}

static void clear(ssmd_message *message, const uint8_t *frame, size_t n, uint32_t flags)
{
    const ssmd_text none = {NULL, 0};
    message->frame = (ssmd_text){frame, n};
    message->row = message->msg_row = NULL;
    message->flags = flags;
    message->sid = 0;
    message->seq = message->id = 0;
    message->sent_ns = message->exchange_ns = 0;
    message->type = message->market = message->unknown_value = none;
    message->sequenced = message->msg_read = false;
    message->unknown_fields = message->malformed = 0;
    message->envelope.present = 0;
}

void ssmd_message_decode(ssmd_message *message, const uint8_t *frame, size_t n, uint32_t flags, uint64_t limit_bytes)
{
    clear(message, frame, n, flags);
    if (SSMD_UNLIKELY((flags & SSMD_FRAME_BINARY) != 0)) {
        become_unparsed(message, SSMD_REASON_BINARY);
        return;
    }
    if (SSMD_UNLIKELY(!read_frame(message))) {
        bool deep = ssmd_json_judge(frame, frame + n) == SSMD_JSON_DEEP;
        clear(message, frame, n, flags);
        become_unparsed(message, deep ? SSMD_REASON_TOO_COMPLEX : SSMD_REASON_BAD_JSON);
        return;
    }
    const ssmd_fields *envelope = &message->envelope;
    if (has(envelope, ENVELOPE_SID))
        message->sid = (uint32_t)envelope->values[ENVELOPE_SID].number;
    if (has(envelope, ENVELOPE_SEQ))
        message->seq = (uint64_t)envelope->values[ENVELOPE_SEQ].number;
    if (has(envelope, ENVELOPE_ID))
        message->id = (uint64_t)envelope->values[ENVELOPE_ID].number;
    if (has(envelope, ENVELOPE_SENT))
        message->sent_ns = envelope->values[ENVELOPE_SENT].number;
    message->sequenced = message->row != NULL && message->row->sequenced;
    judge(message, limit_bytes);
}

/* ---- writing ------------------------------------------------------------------------------ */

static void write_trade(const ssmd_message *message, ssmd_record_builder *builder, uint8_t *body)
{
    ssmd_store32i(body, message->price_e4[0]);
    ssmd_store16(body + 4, (uint16_t)message->side);
    body[6] = message->block;
    ssmd_store64i(body + 8, message->count_e2[0]);
    ssmd_record_text(builder, 0, message->market);
    ssmd_record_text(builder, 1, message->texts[1]);
}

static void write_ticker(const ssmd_message *message, ssmd_record_builder *builder, uint8_t *body)
{
    ssmd_store32(body, message->present);
    for (unsigned i = 0; i < 3; i++)
        ssmd_store32i(body + 4 + 4 * i, message->price_e4[i]);
    for (unsigned i = 0; i < 7; i++)
        ssmd_store64i(body + 16 + 8 * i, message->count_e2[i]);
    ssmd_record_text(builder, 0, message->market);
}

static void write_book(const ssmd_message *message, ssmd_record_builder *builder, uint8_t *body)
{
    ssmd_store16(body, message->snapshot ? 0 : 1);
    ssmd_store16(body + 2, (uint16_t)message->side);
    body[4] = message->yes_scale;
    ssmd_store32i(body + 8, message->price_e4[0]);
    ssmd_store64i(body + 16, message->count_e2[0]);
    ssmd_store64(body + 24, message->snapshot ? message->id : 0);
    ssmd_record_text(builder, 0, message->market);
    if (!message->snapshot)
        return;
    if (message->bids.levels > 0)
        write_ladder(ssmd_record_levels(builder, 1, message->bids.levels), &message->bids);
    if (message->asks.levels > 0)
        write_ladder(ssmd_record_levels(builder, 2, message->asks.levels), &message->asks);
}

static void write_status(const ssmd_message *message, ssmd_record_builder *builder, uint8_t *body)
{
    ssmd_store16(body, (uint16_t)message->change);
    body[2] = (uint8_t)(message->has_settlement | message->multivariate << 1);
    ssmd_store32i(body + 4, message->price_e4[0]);
    for (unsigned i = 0; i < 4; i++) {
        ssmd_store64i(body + 8 + 8 * i, message->times_ns[i]);
        ssmd_record_text(builder, i, message->texts[i]);
    }
}

static void write_index(const ssmd_message *message, ssmd_record_builder *builder, uint8_t *body)
{
    ssmd_store16(body, message->row->variant);
    body[2] = (uint8_t)(message->has_value | message->has_average << 1);
    ssmd_store64i(body + 8, message->count_e2[0]);
    ssmd_store64i(body + 16, message->count_e2[1]);
    ssmd_store64i(body + 24, message->times_ns[0]);
    ssmd_record_text(builder, 0, message->texts[0]);
}

static void write_control(const ssmd_message *message, ssmd_record_builder *builder, uint8_t *body)
{
    ssmd_store16(body, message->row->variant);
    ssmd_store32(body + 4, message->code);
    ssmd_store64(body + 8, message->id);
    ssmd_store32(body + 16, message->control_sid);
    ssmd_record_text(builder, 0, message->texts[0]);
    ssmd_record_text(builder, 1, message->texts[1]);
}

static void write_unparsed(const ssmd_message *message, ssmd_record_builder *builder, uint8_t *body)
{
    ssmd_store16(body, (uint16_t)message->reason);
    ssmd_record_text(builder, 0, recorded_type(message));
}

void ssmd_message_write(const ssmd_message *message, const ssmd_record_header *header, uint8_t *at)
{
    ssmd_record_builder builder;
    ssmd_record_header filled = *header;
    filled.exchange_ns = message->exchange_ns;
    filled.sent_ns = message->sent_ns;
    filled.sid = message->sid;
    filled.seq = message->seq;
    uint8_t *body = ssmd_record_begin(&builder, at, message->kind, &filled);
    switch (message->kind) {
    case SSMD_KIND_TRADE: write_trade(message, &builder, body); break;
    case SSMD_KIND_TICKER: write_ticker(message, &builder, body); break;
    case SSMD_KIND_BOOK: write_book(message, &builder, body); break;
    case SSMD_KIND_STATUS: write_status(message, &builder, body); break;
    case SSMD_KIND_INDEX: write_index(message, &builder, body); break;
    case SSMD_KIND_CONTROL: write_control(message, &builder, body); break;
    default: write_unparsed(message, &builder, body); break;
    }
    bool keep = (message->flags & SSMD_FRAME_KEEP) != 0 || message->kind == SSMD_KIND_UNPARSED;
    ssmd_record_end(&builder, keep ? message->frame : (ssmd_text){NULL, 0});
}

/* The frame moves to where a NUL and the padding can stand behind it: on the stack, or, if it is large, on the heap. */
int ssmd_normalize(const uint8_t *frame, size_t n, const ssmd_frame_meta *meta, uint8_t *out, size_t capacity,
                   size_t *written)
{
    enum { SMALL_BYTES = 8192 };
    uint8_t small[SMALL_BYTES + SSMD_JSON_PADDING_BYTES];
    uint8_t *padded = n <= SMALL_BYTES ? small : malloc(n + SSMD_JSON_PADDING_BYTES);
    ssmd_message message;
    *written = 0;
    if (padded == NULL)
        return SSMD_NO_MEMORY;
    if (n > 0)
        memcpy(padded, frame, n);
    memset(padded + n, 0, SSMD_JSON_PADDING_BYTES);
    ssmd_message_decode(&message, padded, n, meta->flags, meta->limit_bytes == 0 ? UINT64_MAX : meta->limit_bytes);
    *written = message.record_bytes;
    bool fits = message.record_bytes <= capacity;
    if (fits) {
        ssmd_record_header header = {.number = meta->number,
                                     .recv_ns = meta->recv_ns,
                                     .recv_ticks = meta->recv_ticks,
                                     .connection = meta->connection};
        ssmd_message_write(&message, &header, out);
    }
    if (padded != small)
        free(padded);
    return fits ? SSMD_OK : SSMD_TOO_LARGE;
}
