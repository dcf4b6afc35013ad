/* test_json.c - the JSON reader against RFC 8259 by hand, against naive twins, and up to a guard page.
 *
 * Every text is placed so that its padding (json.h) ends at the guard; the padding holds bytes that would continue the
 * text (quotes, digits, brackets), so that a reader that does not stop at the NUL is found out. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "../json.h"
#include "guard.h"

static guarded guard;

static int open_guard(void **state)
{
    (void)state;
    guard = guard_open(1 << 20);
    return 0;
}

static int close_guard(void **state)
{
    (void)state;
    guard_close(&guard);
    return 0;
}

/* The text with its NUL and misleading padding; its end in *end. */
static const uint8_t *place(const void *text, size_t n, const uint8_t **end)
{
    static const char MISLEADING[] = "\"}]0123456789,\"type\":\"x\"}]}\"\\u0041 \xff\xc3\xa9{[";
    uint8_t *at = guard.end - SSMD_JSON_PADDING_BYTES - n;
    if (n > 0)
        memcpy(at, text, n);
    at[n] = 0;
    for (size_t i = 1; i < SSMD_JSON_PADDING_BYTES; i++)
        at[n + i] = (uint8_t)MISLEADING[(i - 1) % (sizeof MISLEADING - 1)];
    *end = at + n;
    return at;
}

static ssmd_json_verdict judge_bytes(const void *text, size_t n)
{
    const uint8_t *end, *at = place(text, n, &end);
    return ssmd_json_judge(at, end);
}

static ssmd_json_verdict judge(const char *text)
{
    return judge_bytes(text, strlen(text));
}

static void good_texts_are_good(void **state)
{
    (void)state;
    static const char *const GOOD[] = {
        "{}",
        " \t\r\n{ \t\r\n} \t\r\n",
        "{\"\":0}",
        "{\"a\":[]}",
        "{\"a\":[ ]}",
        "{\"a\":{}}",
        "{ \"a\" : [ 1 , 2 ] , \"b\" : null }",
        "{\"a\":true,\"b\":false,\"c\":null}",
        "{\"a\":[0,-0,1,-1,10,0.5,-0.5,1e5,1E5,1e+5,1e-5,1.5e10,0e0,123456789012345678901234567890]}",
        "{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\uD83D\\ude00\\ud800\\uABCD\\uabcd\"}",
        "{\"a\":\"\x7f\"}",
        "{\"a\":\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":[[[]],[{}],{\"b\":[{}]}]}",
        "{\"a\":1}\n",
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++)
        if (judge(GOOD[i]) != SSMD_JSON_GOOD)
            fail_msg("refused: %s", GOOD[i]);
}

static void bad_texts_are_bad(void **state)
{
    (void)state;
    static const char *const BAD[] = {
        "",
        " ",
        "null",
        "[]",
        "\"a\"",
        "1",
        "[[[[",
        "{",
        "}",
        "{{}}",
        "{}{}",
        "{},",
        "{}x",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" 1}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1,,\"b\":2}",
        "{a:1}",
        "{'a':1}",
        "{1:1}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{\"a\":[1}",
        "{\"a\":[1}]",
        "{\"a\":{]}",
        "{\"a\":01}",
        "{\"a\":-01}",
        "{\"a\":00}",
        "{\"a\":-}",
        "{\"a\":+1}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1.e5}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":0x1}",
        "{\"a\":1_0}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":-Infinity}",
        "{\"a\":nul}",
        "{\"a\":nulll}",
        "{\"a\":True}",
        "{\"a\":tru}",
        "{\"a\":fals}",
        "{\"a\":\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"\x1f\"}",
        "{\"a\n\":1}",
        "{\"a\":\"\\\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u\"}",
        "{\"a\":\"\\u004\"}",
        "{\"a\":\"\\u00g0\"}",
        "{\"a\":\"\\U0041\"}",
        "{\"a\":1}\x0b",
        "\xef\xbb\xbf{}",
        "{/**/}",
        "{\"a\":1}//",
        "{\xff\xff\xff\xff\xff\xff\xff\xff\"a\":1}",
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        if (judge(BAD[i]) != SSMD_JSON_BAD)
            fail_msg("taken: %s", BAD[i]);
}

static void a_nul_is_a_fault_wherever_it_stands(void **state)
{
    (void)state;
    static const char TEXT[] = "{\"key\":[1,-2.5e7,true,null,\"str\\u0041\"],\"b\":{}} ";
    for (size_t i = 0; i < sizeof TEXT - 1; i++) {
        char text[sizeof TEXT];
        memcpy(text, TEXT, sizeof TEXT);
        text[i] = 0;
        assert_int_equal(judge_bytes(text, sizeof TEXT - 1), SSMD_JSON_BAD);
        assert_int_equal(judge_bytes(TEXT, i), i + 1 == sizeof TEXT - 1 ? SSMD_JSON_GOOD : SSMD_JSON_BAD);
    }
}

/* Unicode, table 3-7, by the definition: decode, then ask whether the shortest form was used and the scalar is allowed.
 */
static bool is_one_scalar(const uint8_t *at, size_t n)
{
    uint32_t scalar;
    static const uint32_t SMALLEST[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (n == 2 && (at[0] & 0xE0) == 0xC0)
        scalar = at[0] & 0x1Fu;
    else if (n == 3 && (at[0] & 0xF0) == 0xE0)
        scalar = at[0] & 0x0Fu;
    else if (n == 4 && (at[0] & 0xF8) == 0xF0)
        scalar = at[0] & 0x07u;
    else
        return false;
    for (size_t i = 1; i < n; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return false;
        scalar = scalar << 6 | (at[i] & 0x3Fu);
    }
    return scalar >= SMALLEST[n] && scalar <= 0x10FFFF && (scalar < 0xD800 || scalar > 0xDFFF);
}

/* ASCII that needs no escape, and scalars. */
static bool is_utf8(const uint8_t *at, size_t n)
{
    while (n > 0) {
        size_t taken = *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\' ? 1 : 0;
        for (size_t length = 2; length <= 4 && taken == 0; length++)
            if (length <= n && is_one_scalar(at, length))
                taken = length;
        if (taken == 0)
            return false;
        at += taken;
        n -= taken;
    }
    return true;
}

/* All lead bytes and second bytes, with third and fourth bytes inside and outside of their range; in front of the
 * closing quote, so that a cut sequence is seen as well. */
static void utf8_is_checked_by_the_table_of_unicode(void **state)
{
    (void)state;
    static const uint8_t MORE[] = {0x00, 0x22, 0x7f, 0x80, 0xbf, 0xc0, 0xff};
    uint8_t text[16] = "{\"a\":\"";
    for (unsigned lead = 0x80; lead <= 0xff; lead++)
        for (unsigned second = 0x22; second <= 0xff; second++)
            for (size_t n = 2; n <= 4; n++)
                for (size_t more = 0; more < sizeof MORE; more++) {
                    text[6] = (uint8_t)lead;
                    text[7] = (uint8_t)second;
                    text[8] = n > 2 ? MORE[more] : 0x80;
                    text[9] = n > 3 ? MORE[(more + 3) % sizeof MORE] : 0x80;
                    text[6 + n] = '"';
                    text[7 + n] = '}';
                    assert_int_equal(judge_bytes(text, 8 + n) == SSMD_JSON_GOOD, is_utf8(text + 6, n));
                }
}

static size_t nested(char *to, unsigned depth, char open, const char *inside)
{
    size_t n = 0;
    to[n++] = '{';
    n += (size_t)sprintf(to + n, "\"a\":");
    for (unsigned i = 1; i < depth; i++)
        n += (size_t)sprintf(to + n, open == '[' ? "[" : "{\"a\":");
    n += (size_t)sprintf(to + n, "%s", inside);
    for (unsigned i = 1; i < depth; i++)
        to[n++] = open == '[' ? ']' : '}';
    to[n++] = '}';
    to[n] = 0;
    return n;
}

static void nesting_may_be_32_deep_and_no_deeper(void **state)
{
    (void)state;
    char text[512];
    static const char OPEN[] = "[{";
    for (int i = 0; i < 2; i++) {
        nested(text, 32, OPEN[i], "1");
        assert_int_equal(judge(text), SSMD_JSON_GOOD);
        nested(text, 33, OPEN[i], "1");
        assert_int_equal(judge(text), SSMD_JSON_DEEP);
        nested(text, 32, OPEN[i], "[]");
        assert_int_equal(judge(text), SSMD_JSON_DEEP);
    }
}

static void the_first_fault_in_byte_order_decides(void **state)
{
    (void)state;
    char deep[256], text[512];
    nested(deep, 33, '[', "\xff");
    assert_int_equal(judge(deep), SSMD_JSON_DEEP);
    sprintf(text, "{\"b\":\"\xff\",%s", deep + 1);
    assert_int_equal(judge(text), SSMD_JSON_BAD);
    sprintf(text, "{\"b\":,%s", deep + 1);
    assert_int_equal(judge(text), SSMD_JSON_BAD);
    sprintf(text, "%s garbage", deep);
    assert_int_equal(judge(text), SSMD_JSON_DEEP);
    sprintf(text, "[%s]", deep);
    assert_int_equal(judge(text), SSMD_JSON_BAD);
}

/* Strings of every length around the widths of vector loads, with one special byte at every place. */
static void a_string_ends_at_its_first_bare_quote(void **state)
{
    (void)state;
    for (size_t n = 0; n < 70; n++)
        for (size_t special = 0; special <= n; special++) {
            static const char *const WITH[] = {"", "\"", "\\n", "\xc3\xa9", "\x01", "\xff"};
            for (size_t kind = 0; kind < 6; kind++) {
                uint8_t text[100];
                size_t length = 0, extra = strlen(WITH[kind]);
                text[length++] = '"';
                for (size_t i = 0; i < n; i++) {
                    if (i == special) {
                        memcpy(text + length, WITH[kind], extra);
                        length += extra;
                    }
                    text[length++] = (uint8_t)('a' + i % 26);
                }
                text[length++] = '"';
                const uint8_t *end, *at = place(text, length, &end);
                ssmd_text found;
                bool escaped;
                const uint8_t *behind = ssmd_json_string(at, &found, &escaped);
                bool there = special < n;
                if (there && (kind == 4 || kind == 5)) {
                    assert_null(behind);
                    continue;
                }
                const uint8_t *last = there && kind == 1 ? at + 1 + special : end - 1;
                assert_ptr_equal(behind, last + 1);
                assert_ptr_equal(found.at, at + 1);
                assert_int_equal(found.n, last - (at + 1));
                assert_int_equal(escaped, there && kind == 2);
            }
        }
}

static void every_prefix_of_a_string_is_a_fault(void **state)
{
    (void)state;
    static const char TEXT[] = "\"KXBTC-26SEP2516-B74250\xc3\xa9\\u0041\\n and more of it to pass 48 bytes\"";
    for (size_t n = 1; n < sizeof TEXT - 1; n++) {
        const uint8_t *end, *at = place(TEXT, n, &end);
        ssmd_text text;
        bool escaped;
        assert_null(ssmd_json_string(at, &text, &escaped));
    }
}

typedef struct number_case {
    const char *text;
    int state;
    int64_t value;
} number_case;

static void check_numbers(const number_case *cases, size_t count,
                          const uint8_t *(*read)(const uint8_t *, int64_t *, ssmd_json_state *))
{
    for (size_t i = 0; i < count; i++) {
        char text[80];
        size_t n = (size_t)sprintf(text, "%s,", cases[i].text);
        const uint8_t *end, *at = place(text, n, &end);
        int64_t value = 0;
        ssmd_json_state state = SSMD_ABSENT;
        const uint8_t *behind = read(at, &value, &state);
        if (cases[i].state < 0) { /* no JSON: refused here, or stopped before the comma and refused there */
            assert_true(behind == NULL || *behind != ',');
            continue;
        }
        if (behind != end - 1 || (int)state != cases[i].state || (state == SSMD_PRESENT && value != cases[i].value))
            fail_msg("%s: state %d, value %" PRId64, cases[i].text, (int)state, value);
    }
}

static const uint8_t *read_int(const uint8_t *at, int64_t *value, ssmd_json_state *state)
{
    return ssmd_json_int(at, 1, value, state);
}
static const uint8_t *read_fixed4(const uint8_t *at, int64_t *value, ssmd_json_state *state)
{
    return ssmd_json_fixed4(at, 1, value, state);
}
static const uint8_t *read_fixed2(const uint8_t *at, int64_t *value, ssmd_json_state *state)
{
    return ssmd_json_fixed2(at, 1, value, state);
}
static const uint8_t *read_fixed8(const uint8_t *at, int64_t *value, ssmd_json_state *state)
{
    return ssmd_json_fixed_slow(at, 1, 8, value, state);
}

#define CHECK(cases, read) check_numbers(cases, sizeof cases / sizeof *cases, read)

static void ints_are_plain_and_below_ten_to_the_fifteenth(void **state)
{
    (void)state;
    static const number_case CASES[] = {
        {"0", 1, 0},
        {"-0", 1, 0},
        {"7", 1, 7},
        {"-7", 1, -7},
        {"1234567", 1, 1234567},
        {"12345678", 1, 12345678},
        {"123456789", 1, 123456789},
        {"1790363624342", 1, 1790363624342},
        {"100000000000000", 1, 100000000000000},
        {"999999999999999", 1, 999999999999999},
        {"-999999999999999", 1, -999999999999999},
        {"1000000000000000", 2, 0},
        {"-1000000000000000", 2, 0},
        {"9999999999999999", 2, 0},
        {"99999999999999999999999999", 2, 0},
        {"1.0", 2, 0},
        {"12345678.5", 2, 0},
        {"1e3", 2, 0},
        {"1E3", 2, 0},
        {"123456789012345e1", 2, 0},
        {"0.0", 2, 0},
        {"0e5", 2, 0},
        {"\"1\"", 2, 0},
        {"true", 2, 0},
        {"[1]", 2, 0},
        {"{}", 2, 0},
        {"null", 0, 0},
        {"01", -1, 0},
        {"-", -1, 0},
        {"1.", -1, 0},
        {"1e", -1, 0},
        {"", -1, 0},
        {"nul", -1, 0},
    };
    CHECK(CASES, read_int);
}

static void decimals_of_scale_four_are_exact(void **state)
{
    (void)state;
    static const number_case CASES[] = {
        {"\"0.4700\"", 1, 4700},
        {"\"1.0000\"", 1, 10000},
        {"\"0.0000\"", 1, 0},
        {"\"9.9999\"", 1, 99999},
        {"\"-0.4700\"", 1, -4700},
        {"\"-0\"", 1, 0},
        {"\"5\"", 1, 50000},
        {"\"05\"", 1, 50000},
        {"\"0.47\"", 1, 4700},
        {"\"0.080\"", 1, 800},
        {"\"0.470000\"", 1, 4700},
        {"\"0.470000000000000\"", 1, 4700},
        {"\"12.3456\"", 1, 123456},
        {"\"999999999999999.9999\"", 2, 0}, /* 9.99e18 is beyond int64 */
        {"\"900000000000000.9999\"", 1, 9000000000000009999},
        {"\"0.47001\"", 2, 0},
        {"\"0.47000000000000001\"", 2, 0},
        {"\"0.4700000000000000\"", 2, 0},
        {"\"1000000000000000\"", 2, 0},
        {"\".47\"", 2, 0},
        {"\"0.\"", 2, 0},
        {"\"-\"", 2, 0},
        {"\"--1\"", 2, 0},
        {"\"+1\"", 2, 0},
        {"\"1e4\"", 2, 0},
        {"\" 1\"", 2, 0},
        {"\"1 \"", 2, 0},
        {"\"0,4700\"", 2, 0},
        {"\"0.47/0\"", 2, 0},
        {"\"0.4:00\"", 2, 0},
        {"\"/.4700\"", 2, 0},
        {"\"0.4700\\u0030\"", 2, 0},
        {"\"\"", 0, 0},
        {"null", 0, 0},
        {"0.47", 2, 0},
        {"1", 2, 0},
        {"[]", 2, 0},
        {"\"0.4700", -1, 0},
    };
    CHECK(CASES, read_fixed4);
}

static void decimals_of_scale_two_are_exact(void **state)
{
    (void)state;
    static const number_case CASES[] = {
        {"\"148.78\"", 1, 14878},
        {"\"-2.00\"", 1, -200},
        {"\"0.01\"", 1, 1},
        {"\"-0.01\"", 1, -1},
        {"\"7\"", 1, 700},
        {"\"7.5\"", 1, 750},
        {"\"7.500\"", 1, 750},
        {"\"12345678.90\"", 1, 1234567890},
        {"\"123456789.01\"", 1, 12345678901},
        {"\"999999999999999.99\"", 1, 99999999999999999},
        {"\"-999999999999999.99\"", 1, -99999999999999999},
        {"\"7.501\"", 2, 0},
        {"\"7.5\n\"", -1, 0},
        {"\"\"", 0, 0},
        {"\"-.50\"", 2, 0},
        {"\"1..0\"", 2, 0},
        {"\"1.0/\"", 2, 0},
        {"\"1.:0\"", 2, 0},
        {"5", 2, 0},
    };
    CHECK(CASES, read_fixed2);
}

static void decimals_of_scale_eight_fit_int64_to_the_last_unit(void **state)
{
    (void)state;
    static const number_case CASES[] = {
        {"\"85850.67000000\"", 1, 8585067000000},
        {"\"92233720368.54775807\"", 1, INT64_MAX},
        {"\"-92233720368.54775808\"", 1, INT64_MIN},
        {"\"92233720368.54775808\"", 2, 0},
        {"\"-92233720368.54775809\"", 2, 0},
        {"\"999999999999999\"", 2, 0},
        {"\"0.00000001\"", 1, 1},
        {"\"0.000000010\"", 1, 1},
        {"\"0.000000001\"", 2, 0},
    };
    CHECK(CASES, read_fixed8);
}

/* The fast readers and the plain one agree on texts made of the bytes that matter, at every length. */
static void fast_decimals_equal_the_plain_reader(void **state)
{
    (void)state;
    static const char ALPHABET[] = "0123456789.-:/ 0000..";
    uint64_t seed = 42;
    for (int round = 0; round < 200000; round++) {
        char text[24];
        size_t n = 0;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t length = seed >> 60;
        text[n++] = '"';
        for (size_t i = 0; i < length; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[n++] = ALPHABET[(seed >> 33) % (sizeof ALPHABET - 1)];
        }
        text[n++] = '"';
        const uint8_t *end, *at = place(text, n, &end);
        for (unsigned scale = 2; scale <= 4; scale += 2) {
            int64_t plain = 0, fast = 0;
            ssmd_json_state expected = ssmd_json_decimal((ssmd_text){at + 1, n - 2}, scale, &plain), found;
            const uint8_t *behind =
                scale == 2 ? ssmd_json_fixed2(at, 1, &fast, &found) : ssmd_json_fixed4(at, 1, &fast, &found);
            assert_ptr_equal(behind, end);
            assert_int_equal(found, expected);
            if (found == SSMD_PRESENT)
                assert_int_equal(fast, plain);
        }
    }
}

static ssmd_json_state date(const char *text, int64_t *ns)
{
    const uint8_t *end, *at = place(text, strlen(text), &end);
    return ssmd_json_rfc3339((ssmd_text){at, strlen(text)}, ns);
}

/* Every day from 1970 to 2200, at a second that changes, against the C library's own calendar. */
static void dates_of_all_days_equal_timegm(void **state)
{
    (void)state;
    struct tm last = {.tm_year = 2200 - 1900, .tm_mon = 11, .tm_mday = 31};
    for (int64_t day = 0; day <= timegm(&last) / 86400; day++) {
        time_t second = (time_t)(day * 86400 + day * 7919 % 86400);
        struct tm at;
        gmtime_r(&second, &at);
        char text[40];
        sprintf(text, "%04d-%02d-%02dT%02d:%02d:%02dZ", at.tm_year + 1900, at.tm_mon + 1, at.tm_mday, at.tm_hour,
                at.tm_min, at.tm_sec);
        int64_t ns = 0;
        assert_int_equal(date(text, &ns), SSMD_PRESENT);
        assert_int_equal(ns, (int64_t)second * 1000000000);
    }
}

static void fractions_of_a_second_have_one_to_nine_digits(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ns;
    } CASES[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"1970-01-01T00:00:00.5Z", 500000000},
        {"1970-01-01T00:00:00.05Z", 50000000},
        {"1970-01-01T00:00:00.123Z", 123000000},
        {"1970-01-01T00:00:00.1234Z", 123400000},
        {"1970-01-01T00:00:00.12345Z", 123450000},
        {"1970-01-01T00:00:01.342537Z", 1342537000},
        {"1970-01-01T00:00:00.1234567Z", 123456700},
        {"1970-01-01T00:00:00.12345678Z", 123456780},
        {"1970-01-01T00:00:00.123456789Z", 123456789},
        {"2026-09-25T19:13:44.342537Z", 1790363624342537000},
        {"2200-12-31T23:59:59.999999999Z", 7289654399999999999},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int64_t ns = -1;
        assert_int_equal(date(CASES[i].text, &ns), SSMD_PRESENT);
        assert_int_equal(ns, CASES[i].ns);
    }
}

static void what_is_no_date_is_malformed(void **state)
{
    (void)state;
    static const char *const BAD[] = {
        "2026-09-25",
        "2026-09-25T19:13:44",
        "2026-09-25T19:13:44.Z",
        "2026-09-25T19:13:44.1234567890Z",
        "2026-09-25T19:13:44+00:00",
        "2026-09-25T19:13:44z",
        "2026-09-25t19:13:44Z",
        "2026-09-25 19:13:44Z",
        "2026/09/25T19:13:44Z",
        "2026-13-25T19:13:44Z",
        "2026-00-25T19:13:44Z",
        "2026-09-00T19:13:44Z",
        "2026-09-31T19:13:44Z",
        "2026-02-29T19:13:44Z",
        "2100-02-29T19:13:44Z",
        "2026-09-25T24:13:44Z",
        "2026-09-25T19:60:44Z",
        "2026-09-25T19:13:60Z",
        "1969-12-31T23:59:59Z",
        "2201-01-01T00:00:00Z",
        "2026-09-25T19:13:44.34253:Z",
        "2026-09-25T19:13:44.12345678/Z",
        "202:-09-25T19:13:44Z",
        "2026-0/-25T19:13:44Z",
        "2026-09-25T1::13:44Z",
        "2026-09-25T19:13;44Z",
        "2026-09-25T19:13:44,5Z",
        "-026-09-25T19:13:44Z",
    };
    int64_t ns;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        if (date(BAD[i], &ns) != SSMD_MALFORMED)
            fail_msg("taken: %s", BAD[i]);
    assert_int_equal(date("", &ns), SSMD_ABSENT);
    assert_int_equal(date("2028-02-29T19:13:44Z", &ns), SSMD_PRESENT);
    assert_int_equal(date("2000-02-29T19:13:44Z", &ns), SSMD_PRESENT);
}

static void a_member_is_the_last_one_of_that_name_without_escapes(void **state)
{
    (void)state;
    static const char TEXT[] = "{ \"value\" : 1, \"other\":{\"value\":2}, \"\\u0076alue\":3, \"value\":4 , \"valu\":5}";
    const uint8_t *end, *at = place(TEXT, sizeof TEXT - 1, &end);
    const uint8_t *member = ssmd_json_member(at, "value", 5);
    assert_non_null(member);
    assert_int_equal(*member, '4');
    assert_null(ssmd_json_member(at, "values", 6));
    at = place("[1]", 3, &end);
    assert_null(ssmd_json_member(at, "value", 5));
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(good_texts_are_good),
        TEST(bad_texts_are_bad),
        TEST(a_nul_is_a_fault_wherever_it_stands),
        TEST(utf8_is_checked_by_the_table_of_unicode),
        TEST(nesting_may_be_32_deep_and_no_deeper),
        TEST(the_first_fault_in_byte_order_decides),
        TEST(a_string_ends_at_its_first_bare_quote),
        TEST(every_prefix_of_a_string_is_a_fault),
        TEST(ints_are_plain_and_below_ten_to_the_fifteenth),
        TEST(decimals_of_scale_four_are_exact),
        TEST(decimals_of_scale_two_are_exact),
        TEST(decimals_of_scale_eight_fit_int64_to_the_last_unit),
        TEST(fast_decimals_equal_the_plain_reader),
        TEST(dates_of_all_days_equal_timegm),
        TEST(fractions_of_a_second_have_one_to_nine_digits),
        TEST(what_is_no_date_is_malformed),
        TEST(a_member_is_the_last_one_of_that_name_without_escapes),
    };
    return cmocka_run_group_tests(tests, open_guard, close_guard);
}
