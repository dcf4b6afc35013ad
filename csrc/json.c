/* json.c - the parts of the JSON reader that are not hot: whole values walked over, escapes and UTF-8, long decimals,
 * dates. json.h says what the readers promise. */
#include "json.h"

const int64_t SSMD_POWERS_OF_TEN[16] = {
    1,         10,         100,         1000,         10000,         100000,         1000000,         10000000,
    100000000, 1000000000, 10000000000, 100000000000, 1000000000000, 10000000000000, 100000000000000, 1000000000000000};

/* One well-formed UTF-8 sequence of two bytes or more (Unicode 15, table 3-7): its length, or 0. */
static size_t utf8_sequence(const uint8_t *at)
{
    uint8_t lead = at[0];
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    size_t n = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
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
static size_t escape_sequence(const uint8_t *at)
{
    switch (at[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't': return 2;
    case 'u': return is_hex(at[2]) && is_hex(at[3]) && is_hex(at[4]) && is_hex(at[5]) ? 6 : 0;
    default: return 0;
    }
}

const uint8_t *ssmd_json_string_rest(const uint8_t *at, bool *escaped)
{
    for (;;) {
        size_t n = 1;
        if (*at == '"')
            return at + 1;
        if (*at == '\\') {
            *escaped = true;
            n = escape_sequence(at);
        } else if (*at >= 0x80) {
            n = utf8_sequence(at);
        } else if (*at < 0x20) { /* the NUL behind the text among them */
            n = 0;
        }
        if (n == 0)
            return NULL;
        at += n;
    }
}

static const uint8_t *skip_digits(const uint8_t *at)
{
    if (!ssmd_is_digit(*at))
        return NULL;
    while (ssmd_is_digit(*at))
        at++;
    return at;
}

static const uint8_t *skip_number(const uint8_t *at)
{
    at += *at == '-';
    if (*at == '0')
        at++;
    else if ((at = skip_digits(at)) == NULL)
        return NULL;
    if (*at == '.' && (at = skip_digits(at + 1)) == NULL)
        return NULL;
    if ((*at | 0x20) == 'e') {
        at++;
        at += *at == '+' || *at == '-';
        at = skip_digits(at);
    }
    return at;
}

/* String, number, true, false, null. */
static const uint8_t *skip_scalar(const uint8_t *at)
{
    ssmd_text text;
    bool escaped;
    switch (*at) {
    case '"': return ssmd_json_string(at, &text, &escaped);
    case 't': return memcmp(at, "true", 4) == 0 ? at + 4 : NULL;
    case 'f': return memcmp(at, "false", 5) == 0 ? at + 5 : NULL;
    case 'n': return memcmp(at, "null", 4) == 0 ? at + 4 : NULL;
    default: return *at == '-' || ssmd_is_digit(*at) ? skip_number(at) : NULL;
    }
}

/* From the quote of a key to the first byte of its value. */
static const uint8_t *skip_key(const uint8_t *at)
{
    ssmd_text text;
    bool escaped;
    if (*at != '"' || (at = ssmd_json_string(at, &text, &escaped)) == NULL)
        return NULL;
    at = ssmd_json_space(at);
    return *at == ':' ? ssmd_json_space(at + 1) : NULL;
}

/* Walks one value with a stack of bits: 1 = inside an object, 0 = inside an array. */
static const uint8_t *skip(const uint8_t *at, unsigned depth, bool *deep)
{
    uint64_t objects = 0;
    unsigned open = 0;
    for (;;) {
        if (*at == '{' || *at == '[') {
            bool object = *at == '{';
            if (depth + ++open > SSMD_JSON_MAX_DEPTH) {
                *deep = true;
                return NULL;
            }
            objects = objects << 1 | object;
            at = ssmd_json_space(at + 1);
            if (*at != (object ? '}' : ']')) {
                if (object && (at = skip_key(at)) == NULL)
                    return NULL;
                continue;
            }
            /* empty: its closing bracket is met below */
        } else if ((at = skip_scalar(at)) == NULL) {
            return NULL;
        }
        for (;; at++, open--, objects >>= 1) { /* behind a value, or at the closing bracket of an empty one */
            if (open == 0)
                return at;
            at = ssmd_json_space(at);
            if (*at != ((objects & 1) ? '}' : ']'))
                break;
        }
        if (*at != ',')
            return NULL;
        at = ssmd_json_space(at + 1);
        if ((objects & 1) && (at = skip_key(at)) == NULL)
            return NULL;
    }
}

const uint8_t *ssmd_json_skip(const uint8_t *at, unsigned depth)
{
    bool deep = false;
    return skip(at, depth, &deep);
}

ssmd_json_verdict ssmd_json_judge(const uint8_t *at, const uint8_t *end)
{
    bool deep = false;
    at = ssmd_json_space(at);
    if (*at != '{')
        return SSMD_JSON_BAD;
    at = skip(at, 0, &deep);
    if (at == NULL)
        return deep ? SSMD_JSON_DEEP : SSMD_JSON_BAD;
    return ssmd_json_space(at) == end ? SSMD_JSON_GOOD : SSMD_JSON_BAD;
}

const uint8_t *ssmd_json_member(const uint8_t *at, const char *key, size_t key_bytes)
{
    const uint8_t *found = NULL;
    if (*at != '{')
        return NULL;
    at = ssmd_json_space(at + 1);
    while (*at == '"') {
        ssmd_text name;
        bool escaped;
        if (ssmd_json_string(at, &name, &escaped) == NULL || (at = skip_key(at)) == NULL)
            return NULL;
        if (!escaped && name.n == key_bytes && memcmp(name.at, key, key_bytes) == 0)
            found = at;
        at = ssmd_json_skip(at, 0);
        if (at == NULL)
            return NULL;
        at = ssmd_json_space(at);
        if (*at == ',')
            at = ssmd_json_space(at + 1);
    }
    return found;
}

/* ---- exact values ------------------------------------------------------------------------- */

const uint8_t *ssmd_json_int_slow(const uint8_t *at, unsigned depth, int64_t *value, ssmd_json_state *state)
{
    const uint8_t *first = at + (*at == '-'), *digit = first;
    int64_t size = 0;
    *state = *at == 'n' ? SSMD_ABSENT : SSMD_MALFORMED;
    for (; ssmd_is_digit(*digit) && digit - first < 16; digit++)
        size = size * 10 + (*digit - '0');
    ptrdiff_t n = digit - first;
    bool plain = n > 0 && n <= 15 && (n == 1 || *first != '0');
    if (plain && *digit != '.' && (*digit | 0x20) != 'e') {
        *value = *at == '-' ? -size : size;
        *state = SSMD_PRESENT;
        return digit;
    }
    return ssmd_json_skip(at, depth);
}

const uint8_t *ssmd_json_fixed_slow(const uint8_t *at, unsigned depth, unsigned scale, int64_t *value,
                                    ssmd_json_state *state)
{
    ssmd_text text;
    at = ssmd_json_text(at, depth, &text, state);
    if (at != NULL && *state == SSMD_PRESENT)
        *state = ssmd_json_decimal(text, scale, value);
    return at;
}

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

/* Are the bytes under `mask` ASCII digits? *pairs gets, at each byte, ten times its digit plus the next one's: the
 * value of a pair at the byte where it starts. Bytes outside of the mask count as 0. */
static bool digit_pairs(uint64_t word, uint64_t mask, uint64_t *pairs)
{
    uint64_t digits = (word ^ 0x3030303030303030u) & mask;
    uint64_t others = ((digits + (0x7676767676767676u & mask)) | digits) & 0x8080808080808080u;
    *pairs = digits * 10 + (digits >> 8);
    return others == 0;
}

static int64_t pair_at(uint64_t pairs, unsigned byte)
{
    return (int64_t)(pairs >> (8 * byte) & 0xFF);
}

/*      word 0            word 1            word 2 (4 bytes)
 *      Y Y Y Y - M M -   D D T h h : m m   : s s . or : s s Z
 */
ssmd_json_state ssmd_json_rfc3339(ssmd_text text, int64_t *ns)
{
    const uint8_t *at = text.at;
    size_t n = text.n;
    if (n == 0)
        return SSMD_ABSENT;
    if (n < 20 || n > 30 || n == 21 || at[n - 1] != 'Z')
        return SSMD_MALFORMED;
    uint64_t date = ssmd_load64(at), time = ssmd_load64(at + 8), end = ssmd_load32(at + 16), years, hours, seconds;
    bool good = digit_pairs(date, 0x00FFFF00FFFFFFFFu, &years);
    good &= digit_pairs(time, 0xFFFF00FFFF00FFFFu, &hours);
    good &= digit_pairs(end, 0x0000000000FFFF00u, &seconds);
    good &= (date & 0xFF0000FF00000000u) == 0x2D00002D00000000u; /* - and - */
    good &= (time & 0x0000FF0000FF0000u) == 0x00003A0000540000u; /* T and : */
    good &= (end & 0xFFu) == ':';
    int64_t year = pair_at(years, 0) * 100 + pair_at(years, 2), month = pair_at(years, 5), day = pair_at(hours, 0);
    int64_t hour = pair_at(hours, 3), minute = pair_at(hours, 6), second = pair_at(seconds, 1);
    if (!good || year < 1970 || year > 2200 || month < 1 || month > 12 || day < 1 ||
        (day > 28 && day > days_of_month(year, month)))
        return SSMD_MALFORMED;
    if (hour > 23 || minute > 59 || second > 59)
        return SSMD_MALFORMED;
    int64_t fraction = 0;
    if (n > 20) { /* a point, 1 to 9 digits, Z */
        uint64_t digits;
        unsigned places = (unsigned)(n - 21), count = ssmd_digits_count(ssmd_load64(at + 20), &digits);
        if (at[19] != '.' || count < (places < 8 ? places : 8) || (places == 9 && !ssmd_is_digit(at[28])))
            return SSMD_MALFORMED;
        fraction = (int64_t)ssmd_digits_value(digits, places < 8 ? places : 8) *
                   (places < 8 ? SSMD_POWERS_OF_TEN[9 - places] : 10);
        if (places == 9)
            fraction += at[28] - '0';
    }
    int64_t minutes = (days_from_civil(year, month, day) * 24 + hour) * 60 + minute;
    *ns = (minutes * 60 + second) * 1000000000 + fraction;
    return SSMD_PRESENT;
}
