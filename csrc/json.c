/* json.c - the parts of the JSON reader that are not hot: whole values walked over, escapes and UTF-8, long decimals,
 * dates. json.h says what the readers promise. */
#include "json.h"

/* One well-formed UTF-8 sequence of two bytes or more (Unicode 15, table 3-7): its length, or 0. */
static size_t utf8_sequence(const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at);
    uint8_t lead = at[0];
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    size_t n = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (left < n)
        return 0;
    uint8_t low = 0x80, high = 0xBF; /* of the second byte: no overlong forms, no surrogates, nothing above U+10FFFF */
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

static bool is_hex(uint8_t byte)
{
    uint8_t letter = byte | 0x20;
    return ssmd_is_digit(byte) || (letter >= 'a' && letter <= 'f');
}

/* The escape at `at` (its backslash): its length, or 0. Surrogates need no partner. */
static size_t escape_sequence(const uint8_t *at, const uint8_t *end)
{
    if (end - at < 2)
        return 0;
    switch (at[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't': return 2;
    case 'u': return end - at >= 6 && is_hex(at[2]) && is_hex(at[3]) && is_hex(at[4]) && is_hex(at[5]) ? 6 : 0;
    default: return 0;
    }
}

const uint8_t *ssmd_json_string_rest(const uint8_t *at, const uint8_t *end, bool *escaped)
{
    while (at < end) {
        size_t n = 1;
        if (*at == '"')
            return at + 1;
        if (*at == '\\') {
            *escaped = true;
            n = escape_sequence(at, end);
        } else if (*at >= 0x80) {
            n = utf8_sequence(at, end);
        } else if (*at < 0x20) {
            n = 0;
        }
        if (n == 0)
            return NULL;
        at += n;
    }
    return NULL;
}

static const uint8_t *skip_digits(const uint8_t *at, const uint8_t *end)
{
    if (at == end || !ssmd_is_digit(*at))
        return NULL;
    while (at < end && ssmd_is_digit(*at))
        at++;
    return at;
}

static const uint8_t *skip_number(const uint8_t *at, const uint8_t *end)
{
    at += *at == '-';
    if (at < end && *at == '0')
        at++;
    else if ((at = skip_digits(at, end)) == NULL)
        return NULL;
    if (at < end && *at == '.' && (at = skip_digits(at + 1, end)) == NULL)
        return NULL;
    if (at < end && (*at | 0x20) == 'e') {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        at = skip_digits(at, end);
    }
    return at;
}

static const uint8_t *skip_word(const uint8_t *at, const uint8_t *end, const char *word, size_t n)
{
    return (size_t)(end - at) >= n && memcmp(at, word, n) == 0 ? at + n : NULL;
}

/* String, number, true, false, null. */
static const uint8_t *skip_scalar(const uint8_t *at, const uint8_t *end)
{
    ssmd_text text;
    bool escaped;
    switch (*at) {
    case '"': return ssmd_json_string(at, end, &text, &escaped);
    case 't': return skip_word(at, end, "true", 4);
    case 'f': return skip_word(at, end, "false", 5);
    case 'n': return skip_word(at, end, "null", 4);
    default: return *at == '-' || ssmd_is_digit(*at) ? skip_number(at, end) : NULL;
    }
}

/* From the quote of a key to the first byte of its value. */
static const uint8_t *skip_key(const uint8_t *at, const uint8_t *end)
{
    ssmd_text text;
    bool escaped;
    if (at == end || *at != '"' || (at = ssmd_json_string(at, end, &text, &escaped)) == NULL)
        return NULL;
    at = ssmd_json_space(at, end);
    return at < end && *at == ':' ? ssmd_json_space(at + 1, end) : NULL;
}

/* Walks one value with a stack of bits: 1 = inside an object, 0 = inside an array. */
static const uint8_t *skip(const uint8_t *at, const uint8_t *end, unsigned depth, bool *deep)
{
    uint64_t objects = 0;
    unsigned open = 0;
    for (;;) {
        if (at == end)
            return NULL;
        if (*at == '{' || *at == '[') {
            bool object = *at == '{';
            if (depth + ++open > SSMD_JSON_MAX_DEPTH) {
                *deep = true;
                return NULL;
            }
            objects = objects << 1 | object;
            at = ssmd_json_space(at + 1, end);
            if (at == end || *at != (object ? '}' : ']')) {
                if (object && (at = skip_key(at, end)) == NULL)
                    return NULL;
                continue;
            }
            /* empty: its closing bracket is met below */
        } else if ((at = skip_scalar(at, end)) == NULL) {
            return NULL;
        }
        for (;;) { /* behind a value, or at the closing bracket of an empty one */
            if (open == 0)
                return at;
            at = ssmd_json_space(at, end);
            if (at == end)
                return NULL;
            if (*at != ((objects & 1) ? '}' : ']'))
                break;
            at++;
            open--;
            objects >>= 1;
        }
        if (*at != ',')
            return NULL;
        at = ssmd_json_space(at + 1, end);
        if ((objects & 1) && (at = skip_key(at, end)) == NULL)
            return NULL;
    }
}

const uint8_t *ssmd_json_skip(const uint8_t *at, const uint8_t *end, unsigned depth)
{
    bool deep = false;
    return skip(at, end, depth, &deep);
}

ssmd_json_verdict ssmd_json_fault(const uint8_t *at, size_t n)
{
    const uint8_t *end = at + n;
    bool deep = false;
    at = ssmd_json_space(at, end);
    if (at == end || *at != '{')
        return SSMD_JSON_BAD;
    at = skip(at, end, 0, &deep);
    if (at == NULL)
        return deep ? SSMD_JSON_DEEP : SSMD_JSON_BAD;
    return ssmd_json_space(at, end) == end ? SSMD_JSON_GOOD : SSMD_JSON_BAD;
}

const uint8_t *ssmd_json_member(const uint8_t *at, const uint8_t *end, const char *key, size_t key_bytes)
{
    const uint8_t *found = NULL;
    if (*at != '{')
        return NULL;
    at = ssmd_json_space(at + 1, end);
    while (at < end && *at == '"') {
        ssmd_text name;
        bool escaped;
        if (ssmd_json_string(at, end, &name, &escaped) == NULL || (at = skip_key(at, end)) == NULL)
            return NULL;
        if (!escaped && name.n == key_bytes && memcmp(name.at, key, key_bytes) == 0)
            found = at;
        at = ssmd_json_skip(at, end, 0);
        if (at == NULL)
            return NULL;
        at = ssmd_json_space(at, end);
        if (at < end && *at == ',')
            at = ssmd_json_space(at + 1, end);
    }
    return found;
}

/* ---- exact values from texts -------------------------------------------------------------- */

__extension__ typedef __int128 wide;

ssmd_json_state ssmd_json_decimal(ssmd_text text, unsigned scale, int64_t *value)
{
    const uint8_t *at = text.at, *end = text.at + text.n;
    if (at == end)
        return SSMD_ABSENT;
    bool negative = *at == '-';
    at += negative;
    wide size = 0;
    const uint8_t *digit = at;
    for (; at < end && ssmd_is_digit(*at); at++) {
        if (at - digit == 15)
            return SSMD_MALFORMED;
        size = size * 10 + (*at - '0');
    }
    if (at == digit)
        return SSMD_MALFORMED;
    unsigned places = 0;
    if (at < end && *at == '.') {
        digit = ++at;
        for (; at < end && ssmd_is_digit(*at); at++) {
            if (at - digit == 15)
                return SSMD_MALFORMED;
            if (places < scale) {
                size = size * 10 + (*at - '0');
                places++;
            } else if (*at != '0') {
                return SSMD_MALFORMED;
            }
        }
        if (at == digit)
            return SSMD_MALFORMED;
    }
    if (at != end)
        return SSMD_MALFORMED;
    size *= SSMD_POWERS_OF_TEN[scale - places];
    if (negative)
        size = -size;
    if (size < INT64_MIN || size > INT64_MAX)
        return SSMD_MALFORMED;
    *value = (int64_t)size;
    return SSMD_PRESENT;
}

/* Days from 1970-01-01, after Howard Hinnant's chrono-compatible algorithms; years from 1970 on. */
static int64_t days_from_civil(int64_t year, int64_t month, int64_t day)
{
    year -= month <= 2;
    int64_t era = year / 400, year_of_era = year % 400;
    int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static int64_t days_of_month(int64_t year, int64_t month)
{
    static const uint8_t DAYS[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return month == 2 && leap ? 29 : DAYS[month - 1];
}

/* Two digits, or a value that no date has. */
static int64_t pair(const uint8_t *at)
{
    return ssmd_is_digit(at[0]) && ssmd_is_digit(at[1]) ? (at[0] - '0') * 10 + (at[1] - '0') : 1000000;
}

ssmd_json_state ssmd_json_rfc3339(ssmd_text text, int64_t *ns)
{
    const uint8_t *at = text.at;
    size_t n = text.n;
    if (n == 0)
        return SSMD_ABSENT;
    if (n < 20 || n > 30 || n == 21 || at[n - 1] != 'Z')
        return SSMD_MALFORMED;
    if (at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' || at[16] != ':')
        return SSMD_MALFORMED;
    int64_t year = pair(at) * 100 + pair(at + 2), month = pair(at + 5), day = pair(at + 8);
    int64_t hour = pair(at + 11), minute = pair(at + 14), second = pair(at + 17);
    if (year < 1970 || year > 2200 || month < 1 || month > 12 || day < 1 || day > days_of_month(year, month))
        return SSMD_MALFORMED;
    if (hour > 23 || minute > 59 || second > 59)
        return SSMD_MALFORMED;
    int64_t fraction = 0;
    if (n > 20) {
        if (at[19] != '.')
            return SSMD_MALFORMED;
        for (size_t i = 20; i < n - 1; i++) {
            if (!ssmd_is_digit(at[i]))
                return SSMD_MALFORMED;
            fraction = fraction * 10 + (at[i] - '0');
        }
        fraction *= SSMD_POWERS_OF_TEN[9 - (n - 21)];
    }
    *ns = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    *ns = *ns * 1000000000 + fraction;
    return SSMD_PRESENT;
}
