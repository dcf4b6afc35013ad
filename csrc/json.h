/* json.h - reads JSON where it stands: no tree, no copy, no allocation.
 *
 * A reader takes a cursor at the first byte of something and gives back the cursor behind it, or NULL when no
 * JSON text can have the byte that it met. The caller's `end` is never crossed, not even by a wide load: a wide
 * load is tried only where that many bytes are left, and the last few bytes of a frame go byte by byte.
 *
 * Strictness is that of RFC 8259, plus well-formed UTF-8 and a limit on nesting (docs/records.md, "JSON"). Why a
 * text is refused is asked afterwards, of ssmd_json_fault: the happy path carries no reasons around.
 *
 * Not for: building values, floating point (numbers are walked over, or read as exact integers and decimals).
 *
 * SSE2 where the compiler has it; -DSSMD_PORTABLE takes the byte-wise way, which the tests run as well.
 */
#ifndef SSMD_JSON_H
#define SSMD_JSON_H

#include "ssmd.h"

#include <string.h>

#if defined(__SSE2__) && !defined(SSMD_PORTABLE)
#include <emmintrin.h>
#define SSMD_JSON_SSE2 1
#endif

#define SSMD_LIKELY(x) __builtin_expect(!!(x), 1)
#define SSMD_UNLIKELY(x) __builtin_expect(!!(x), 0)

enum { SSMD_JSON_MAX_DEPTH = 32 }; /* of brackets inside each other, the outermost included */

typedef enum ssmd_json_verdict {
    SSMD_JSON_GOOD = 0,
    SSMD_JSON_BAD = 1, /* not one JSON object in UTF-8 */
    SSMD_JSON_DEEP = 2 /* opens more brackets than SSMD_JSON_MAX_DEPTH, and was good up to there */
} ssmd_json_verdict;

/* What a field turned out to be. */
typedef enum ssmd_json_state { SSMD_ABSENT = 0, SSMD_PRESENT = 1, SSMD_MALFORMED = 2 } ssmd_json_state;

typedef struct ssmd_text {
    const uint8_t *at; /* into the frame */
    size_t n;
} ssmd_text;

/* The whole text, judged: the first fault in byte order decides. */
ssmd_json_verdict ssmd_json_fault(const uint8_t *at, size_t n);

/* Any value, walked over. `depth` is how many brackets are open around it. */
const uint8_t *ssmd_json_skip(const uint8_t *at, const uint8_t *end, unsigned depth);

/* Rest of a string, from a byte that is not plain printable ASCII (an escape, UTF-8, a fault) to behind its closing
 * quote. Sets *escaped when there was a backslash. */
const uint8_t *ssmd_json_string_rest(const uint8_t *at, const uint8_t *end, bool *escaped);

/* The decimal readers below, for what is too long or too odd for their fast paths. `text` has no backslash. */
ssmd_json_state ssmd_json_decimal(ssmd_text text, unsigned scale, int64_t *value);
ssmd_json_state ssmd_json_rfc3339(ssmd_text text, int64_t *ns);

/* The value of the last member called `key` in the object at `at`, or NULL; for objects known to be valid JSON. */
const uint8_t *ssmd_json_member(const uint8_t *at, const uint8_t *end, const char *key, size_t key_bytes);

/* ---- leaves ------------------------------------------------------------------------------- */

static inline uint64_t ssmd_load64(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline const uint8_t *ssmd_json_space(const uint8_t *at, const uint8_t *end)
{
    while (at < end && SSMD_UNLIKELY(*at <= ' ') && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    return at;
}

/* The string at `at` (its opening quote). Fills text (between the quotes, escapes as they stand). */
static inline const uint8_t *ssmd_json_string(const uint8_t *at, const uint8_t *end, ssmd_text *text, bool *escaped)
{
    const uint8_t *first = ++at;
    *escaped = false;
#ifdef SSMD_JSON_SSE2
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), control = _mm_set1_epi8(0x1f);
    while (SSMD_LIKELY(end - at >= 16)) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i special = _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash));
        special = _mm_or_si128(special, _mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes));
        /* `bytes` itself joins for its top bits: no ASCII there */
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_or_si128(special, bytes));
        if (mask != 0) {
            at += __builtin_ctz(mask);
            break;
        }
        at += 16;
    }
#endif
    while (at < end && *at != '"' && *at != '\\' && *at >= 0x20 && *at < 0x80)
        at++;
    if (SSMD_UNLIKELY(at == end))
        return NULL;
    if (SSMD_UNLIKELY(*at != '"')) {
        at = ssmd_json_string_rest(at, end, escaped);
        if (at == NULL)
            return NULL;
    } else {
        at++;
    }
    text->at = first;
    text->n = (size_t)(at - 1 - first);
    return at;
}

/* How many of the 8 bytes, from the lowest, are ASCII digits; *digits gets byte ^ '0'. */
static inline unsigned ssmd_digits_count(uint64_t word, uint64_t *digits)
{
    uint64_t values = word ^ 0x3030303030303030u;
    /* A byte above 9 reaches the top bit; what it carries over spoils only bytes behind it. */
    uint64_t others = ((values + 0x7676767676767676u) | values) & 0x8080808080808080u;
    *digits = values;
    return others == 0 ? 8u : (unsigned)__builtin_ctzll(others) >> 3;
}

/* The value of the lowest n (1..8) digit bytes, the first one being the most significant. */
static inline uint64_t ssmd_digits_value(uint64_t digits, unsigned n)
{
    digits <<= (8u - n) * 8u; /* leading zeros */
    digits = digits * 10 + (digits >> 8);
    return (((digits & 0x000000FF000000FFu) * 0x000F424000000064u) +
            (((digits >> 16) & 0x000000FF000000FFu) * 0x0000271000000001u)) >>
           32;
}

static const int64_t SSMD_POWERS_OF_TEN[16] = {
    1,         10,         100,         1000,         10000,         100000,         1000000,         10000000,
    100000000, 1000000000, 10000000000, 100000000000, 1000000000000, 10000000000000, 100000000000000, 1000000000000000};

static inline bool ssmd_is_digit(uint8_t byte)
{
    return (uint8_t)(byte - '0') <= 9;
}

/* A JSON value read as *int* of docs/records.md: -?(0|[1-9][0-9]*), below 10^15 in size. */
static inline const uint8_t *ssmd_json_int(const uint8_t *at, const uint8_t *end, unsigned depth, int64_t *value,
                                           ssmd_json_state *state)
{
    if (SSMD_UNLIKELY(at == end))
        return NULL;
    if (SSMD_UNLIKELY(*at == 'n')) {
        *state = SSMD_ABSENT;
        return ssmd_json_skip(at, end, depth);
    }
    const uint8_t *first = at;
    bool negative = *at == '-';
    at += negative;
    const uint8_t *digit = at;
    uint64_t size = 0;
    if (SSMD_LIKELY(end - at >= 17)) { /* two words and the byte behind them */
        uint64_t digits;
        unsigned n = ssmd_digits_count(ssmd_load64(at), &digits);
        if (n > 0)
            size = ssmd_digits_value(digits, n);
        at += n;
        if (n == 8) {
            n = ssmd_digits_count(ssmd_load64(at), &digits);
            if (n > 0)
                size = size * (uint64_t)SSMD_POWERS_OF_TEN[n] + ssmd_digits_value(digits, n);
            at += n;
        }
    } else {
        while (at < end && ssmd_is_digit(*at) && at - digit < 16)
            size = size * 10 + (uint64_t)(*at++ - '0');
    }
    ptrdiff_t n = at - digit;
    bool plain = n > 0 && n <= 15 && (n == 1 || *digit != '0');
    if (SSMD_UNLIKELY(!plain || (at < end && (*at == '.' || *at == 'e' || *at == 'E' || ssmd_is_digit(*at))))) {
        *state = SSMD_MALFORMED;
        return ssmd_json_skip(first, end, depth);
    }
    *value = negative ? -(int64_t)size : (int64_t)size;
    *state = SSMD_PRESENT;
    return at;
}

/* A JSON value read as *decimal(scale)*, scale <= 8; the result still has to fit its field. */
static inline const uint8_t *ssmd_json_fixed(const uint8_t *at, const uint8_t *end, unsigned depth, unsigned scale,
                                             int64_t *value, ssmd_json_state *state)
{
    if (SSMD_UNLIKELY(at == end))
        return NULL;
    if (SSMD_UNLIKELY(*at != '"')) {
        *state = *at == 'n' ? SSMD_ABSENT : SSMD_MALFORMED;
        return ssmd_json_skip(at, end, depth);
    }
    if (SSMD_LIKELY(end - at >= 20)) { /* quote, sign, 8 digits, point, 8 bytes of fraction: "1234.5600" and its like */
        const uint8_t *digit = at + 1;
        bool negative = *digit == '-';
        digit += negative;
        uint64_t digits, fraction;
        unsigned n = ssmd_digits_count(ssmd_load64(digit), &digits);
        const uint8_t *point = digit + n;
        unsigned m = ssmd_digits_count(ssmd_load64(point + 1), &fraction);
        if (SSMD_LIKELY(n - 1 < 8 && *point == '.' && m - 1 < scale && point[1 + m] == '"')) {
            int64_t size = (int64_t)(ssmd_digits_value(digits, n) * (uint64_t)SSMD_POWERS_OF_TEN[scale]) +
                           (int64_t)ssmd_digits_value(fraction, m) * SSMD_POWERS_OF_TEN[scale - m];
            *value = negative ? -size : size;
            *state = SSMD_PRESENT;
            return point + 2 + m;
        }
    }
    ssmd_text text;
    bool escaped;
    at = ssmd_json_string(at, end, &text, &escaped);
    if (at != NULL)
        *state = escaped ? SSMD_MALFORMED : ssmd_json_decimal(text, scale, value);
    return at;
}

/* A JSON value read as *text*: a string without escapes; empty and null are absent. */
static inline const uint8_t *ssmd_json_text(const uint8_t *at, const uint8_t *end, unsigned depth, ssmd_text *text,
                                            ssmd_json_state *state)
{
    if (SSMD_UNLIKELY(at == end))
        return NULL;
    if (SSMD_UNLIKELY(*at != '"')) {
        *state = *at == 'n' ? SSMD_ABSENT : SSMD_MALFORMED;
        return ssmd_json_skip(at, end, depth);
    }
    bool escaped;
    at = ssmd_json_string(at, end, text, &escaped);
    if (SSMD_LIKELY(at != NULL))
        *state = escaped ? SSMD_MALFORMED : text->n == 0 ? SSMD_ABSENT : SSMD_PRESENT;
    return at;
}

#endif
