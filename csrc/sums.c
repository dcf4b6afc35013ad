/* sums.c - see sums.h. One pass: framing, number, kind, digest; nothing is kept between calls.
 *
 * Source: J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF" (2012); c = 1 round a word and d = 3 at
 * the end, as in CPython's and Rust's tables. Little-endian, like all of ssmd.
 */
#include "sums.h"

#include <string.h>

#include "load_internal.h"

static uint64_t rotate(uint64_t word, unsigned bits)
{
    return word << bits | word >> (64 - bits);
}

typedef struct sip {
    uint64_t v0, v1, v2, v3;
} sip;

static inline void sip_round(sip *s)
{
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

static inline void sip_take(sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

uint64_t ssmd_digest(uint64_t k0, uint64_t k1, const uint8_t *data, uint64_t n)
{
    sip s = {
        .v0 = k0 ^ 0x736f6d6570736575u,
        .v1 = k1 ^ 0x646f72616e646f6du,
        .v2 = k0 ^ 0x6c7967656e657261u,
        .v3 = k1 ^ 0x7465646279746573u,
    };
    uint64_t whole = n & ~UINT64_C(7);
    for (uint64_t at = 0; at < whole; at += 8)
        sip_take(&s, load_64(data + at));
    uint64_t last = n << 56; /* the bytes that are left, and the length's lowest byte above them */
    for (uint64_t i = whole; i < n; i++)
        last |= (uint64_t)data[i] << (8 * (i - whole));
    sip_take(&s, last);
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* Bytes of the record at a place, 0 = no whole one of one segment begins there. */
static uint64_t record_bytes(const uint8_t *at, uint64_t n)
{
    enum { LEAST = SSMD_RECORD_KIND + sizeof(uint16_t) };
    if (n < LEAST)
        return 0;
    uint64_t head = load_64(at); /* segments less one, then words of the first */
    uint64_t bytes = 8 + 8 * (head >> 32);
    return (uint32_t)head != 0 || bytes > n || bytes < LEAST ? 0 : bytes;
}

int ssmd_sums_read(uint64_t k0, uint64_t k1, const uint8_t *data, uint64_t n, uint64_t block_numbers, ssmd_sum *rows,
                   uint64_t capacity, uint64_t *count, uint64_t *used, uint64_t *checkpoints)
{
    *count = *used = *checkpoints = 0;
    ssmd_sum *row = NULL;
    while (*used < n) {
        const uint8_t *at = data + *used;
        uint64_t bytes = record_bytes(at, n - *used);
        if (bytes == 0)
            return SSMD_DAMAGED;
        uint16_t kind;
        memcpy(&kind, at + SSMD_RECORD_KIND, sizeof kind);
        if (kind == SSMD_KIND_CHECKPOINT) {
            (*checkpoints)++;
            *used += bytes;
            continue;
        }
        uint64_t number = load_64(at + SSMD_RECORD_NUMBER);
        if (row == NULL || row->block != number / block_numbers) {
            if (*count == capacity)
                return SSMD_MORE;
            row = &rows[(*count)++];
            *row = (ssmd_sum){.block = number / block_numbers, .lowest = number, .highest = number};
        }
        row->count++;
        row->sum += ssmd_digest(k0, k1, at, bytes);
        if (number < row->lowest)
            row->lowest = number;
        if (number > row->highest)
            row->highest = number;
        *used += bytes;
    }
    return SSMD_OK;
}
