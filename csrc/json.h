/* json.h - reads JSON where it stands: no tree, no copy, no allocation.
 *
 * A reader takes a cursor at the first byte of something and gives back the cursor behind it, or NULL when no JSON text
 * can have the byte that it met.
 *
 *      { " t y p e " : ... } \n  00  .. .. .. ..
 *      ^ at                      ^ end: one NUL, then SSMD_JSON_PADDING_BYTES - 1 more that can be read, whatever they
 * are
 *
 * No reader is told where the text ends: a NUL has no place in JSON, neither inside a string nor outside, so every
 * reader stops there by itself, and a wide load may look a little further. Whoever starts the first reader provides the
 * NUL and the padding, and checks that the last one stopped at `end` (a NUL within the text stops it earlier, and is a
 * fault).
 *
 * Strictness is that of RFC 8259, plus well-formed UTF-8 and a limit on nesting (docs/records.md, "JSON"). Why a text
 * is refused is asked afterwards, of ssmd_json_judge: the happy path carries no reasons around.
 *
 * Not for: building values, floating point (numbers are walked over, or read as exact integers and decimals).
 *
 * SSE2 where the compiler has it; -DSSMD_PORTABLE takes the other way, which the tests run as well.
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
#define SSMD_INLINE static inline __attribute__((always_inline))

enum { SSMD_JSON_MAX_DEPTH = 32 };     /* of brackets inside each other, the outermost included */
enum { SSMD_JSON_PADDING_BYTES = 64 }; /* behind the text, the NUL included */

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
ssmd_json_verdict ssmd_json_judge(const uint8_t *at, const uint8_t *end);

/* Any value, walked over. `depth` is how many brackets are open around it. */
const uint8_t *ssmd_json_skip(const uint8_t *at, unsigned depth);

/* Rest of a string, from a byte that is not plain printable ASCII (an escape, UTF-8, a fault) to behind its closing
 * quote. Sets *escaped when there was a backslash. */
const uint8_t *ssmd_json_string_rest(const uint8_t *at, bool *escaped);

/* The same values as the readers below, from a text without backslash: for what their fast paths do not take. */
ssmd_json_state ssmd_json_decimal(ssmd_text text, unsigned scale, int64_t *value);
ssmd_json_state ssmd_json_rfc3339(ssmd_text text, int64_t *ns);

/* The slow halves of the readers below: any value. */
const uint8_t *ssmd_json_int_slow(const uint8_t *at, unsigned depth, int64_t *value, ssmd_json_state *state);
const uint8_t *ssmd_json_fixed_slow(const uint8_t *at, unsigned depth, unsigned scale, int64_t *value,
                                    ssmd_json_state *state);

/* The value of the last member called `key` in the object at `at`, or NULL; for objects known to be valid JSON. */
const uint8_t *ssmd_json_member(const uint8_t *at, const char *key, size_t key_bytes);

/* ---- leaves ------------------------------------------------------------------------------- */

SSMD_INLINE uint64_t ssmd_load64(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

SSMD_INLINE uint32_t ssmd_load32(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

SSMD_INLINE bool ssmd_is_digit(uint8_t byte)
{
    return (uint8_t)(byte - '0') <= 9;
}

SSMD_INLINE const uint8_t *ssmd_json_space(const uint8_t *at)
{
    while (SSMD_UNLIKELY(*at <= ' ') && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    return at;
}

/* The string at `at` (its opening quote). Fills text (between the quotes, escapes as they stand). */
SSMD_INLINE const uint8_t *ssmd_json_string(const uint8_t *at, ssmd_text *text, bool *escaped)
{
    const uint8_t *first = ++at;
    *escaped = false;
#ifdef SSMD_JSON_SSE2
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), control = _mm_set1_epi8(0x1f);
    for (;; at += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i special = _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash));
        special = _mm_or_si128(special, _mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes));
        /* `bytes` itself joins for its top bits: no ASCII there */
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_or_si128(special, bytes));
        if (mask != 0) {
            at += __builtin_ctz(mask);
            break;
        }
    }
#else
    while (*at != '"' && *at != '\\' && *at >= 0x20 && *at < 0x80)
        at++;
#endif
    if (SSMD_LIKELY(*at == '"'))
        at++;
    else
        at = ssmd_json_string_rest(at, escaped);
    text->at = first;
    text->n = SSMD_LIKELY(at != NULL) ? (size_t)(at - 1 - first) : 0;
    return at;
}

/* How many of the 8 bytes, from the lowest, are ASCII digits; *digits gets byte ^ '0'. */
SSMD_INLINE unsigned ssmd_digits_count(uint64_t word, uint64_t *digits)
{
    uint64_t values = word ^ 0x3030303030303030u;
    /* A byte above 9 reaches the top bit; what it carries over spoils only bytes behind it. */
    uint64_t others = ((values + 0x7676767676767676u) | values) & 0x8080808080808080u;
    *digits = values;
    return others == 0 ? 8u : (unsigned)__builtin_ctzll(others) >> 3;
}

/* The value of the lowest n (1..8) digit bytes, the first one being the most significant. */
SSMD_INLINE uint64_t ssmd_digits_value(uint64_t digits, unsigned n)
{
    digits <<= (8u - n) * 8u; /* leading zeros */
    digits = digits * 10 + (digits >> 8);
    return (((digits & 0x000000FF000000FFu) * 0x000F424000000064u) +
            (((digits >> 16) & 0x000000FF000000FFu) * 0x0000271000000001u)) >>
           32;
}

extern const int64_t SSMD_POWERS_OF_TEN[16];

/* A JSON value read as *int* of docs/records.md: -?(0|[1-9][0-9]*), below 10^15 in size. */
SSMD_INLINE const uint8_t *ssmd_json_int(const uint8_t *at, unsigned depth, int64_t *value, ssmd_json_state *state)
{
    uint64_t digits, size;
    unsigned n = ssmd_digits_count(ssmd_load64(at), &digits), more = 0;
    if (SSMD_UNLIKELY(n == 0 || *at == '0'))
        return ssmd_json_int_slow(at, depth, value, state);
    size = ssmd_digits_value(digits, n);
    if (n == 8) {
        more = ssmd_digits_count(ssmd_load64(at + 8), &digits);
        if (more > 0)
            size = size * (uint64_t)SSMD_POWERS_OF_TEN[more] + ssmd_digits_value(digits, more);
    }
    const uint8_t *behind = at + n + more;
    if (SSMD_UNLIKELY(more == 8 || *behind == '.' || (*behind | 0x20) == 'e'))
        return ssmd_json_int_slow(at, depth, value, state);
    *value = (int64_t)size;
    *state = SSMD_PRESENT;
    return behind;
}

/* A JSON value read as *decimal(4)*, as prices come: "0.4700". Whether it fits its field is not asked here. */
SSMD_INLINE const uint8_t *ssmd_json_fixed4(const uint8_t *at, unsigned depth, int64_t *value, ssmd_json_state *state)
{
    /* bytes of the word: digit, point, four digits, closing quote, any */
    uint64_t word = ssmd_load64(at + 1), digits = (word & 0x0000FFFFFFFF00FFu) ^ 0x0000303030300030u;
    uint64_t others = ((digits + 0x0000767676760076u) | digits) & 0x0000808080800080u;
    if (SSMD_LIKELY(*at == '"' && (word & 0x00FF00000000FF00u) == 0x0022000000002E00u && others == 0)) {
        uint32_t fraction = (uint32_t)(digits >> 16); /* tens of ones, then hundreds of both */
        fraction = (fraction * 10 + (fraction >> 8)) & 0x00FF00FFu;
        *value = (int64_t)((digits & 0xFF) * 10000 + (fraction & 0xFF) * 100 + (fraction >> 16));
        *state = SSMD_PRESENT;
        return at + 8;
    }
    return ssmd_json_fixed_slow(at, depth, 4, value, state);
}

/* A JSON value read as *decimal(2)*, as counts come: "148.78", "-2.00". */
SSMD_INLINE const uint8_t *ssmd_json_fixed2(const uint8_t *at, unsigned depth, int64_t *value, ssmd_json_state *state)
{
    bool negative = at[1] == '-';
    const uint8_t *digit = at + 1 + negative;
    uint64_t digits;
    unsigned n = ssmd_digits_count(ssmd_load64(digit), &digits);
    uint32_t tail = ssmd_load32(digit + n); /* point, two digits, closing quote */
    uint32_t cents = (tail & 0x00FFFF00u) ^ 0x00303000u;
    uint32_t others = ((cents + 0x00767600u) | cents) & 0x00808000u;
    if (SSMD_LIKELY(*at == '"' && n > 0 && (tail & 0xFF0000FFu) == 0x2200002Eu && others == 0)) {
        int64_t size = (int64_t)(ssmd_digits_value(digits, n) * 100 + (cents >> 8 & 0xFF) * 10 + (cents >> 16));
        *value = negative ? -size : size;
        *state = SSMD_PRESENT;
        return digit + n + 4;
    }
    return ssmd_json_fixed_slow(at, depth, 2, value, state);
}

/* A JSON value read as *text*: a string without escapes; empty and null are absent. */
SSMD_INLINE const uint8_t *ssmd_json_text(const uint8_t *at, unsigned depth, ssmd_text *text, ssmd_json_state *state)
{
    if (SSMD_UNLIKELY(*at != '"')) {
        *state = *at == 'n' ? SSMD_ABSENT : SSMD_MALFORMED;
        *text = (ssmd_text){NULL, 0};
        return ssmd_json_skip(at, depth);
    }
    bool escaped;
    at = ssmd_json_string(at, text, &escaped);
    *state = SSMD_UNLIKELY(escaped) ? SSMD_MALFORMED : SSMD_UNLIKELY(text->n == 0) ? SSMD_ABSENT : SSMD_PRESENT;
    return at;
}

#endif
