/* capnp.h - writes records of schemas/market_data.capnp straight into their final place.
 *
 * No builder, no arena, no copy: the layouts are fixed, sizes are known before the first byte is written, and every
 * record is one segment laid out in one order (docs/records.md, "Bytes"):
 *
 *      0  stream framing   u32 0, u32 words in the segment
 *      8  root pointer     -> 16
 *     16  Record data      number recvNs recvTicks exchangeNs sentNs connection|sid seq kind
 *     80  frame pointer    -> the last object, or null
 *     88  body pointer     -> 96
 *     96  body struct      data words, then pointers
 *      .  its texts and lists in the order of their ordinals, each padded to 8 bytes
 *      .  frame
 *
 * Cap'n Proto counts distances in words from the end of a pointer. Everything is little-endian, as is the host.
 * Offsets and sizes come from `capnp compile -ocapnp`; tests hold them against the stock decoder.
 *
 * Knows no exchange. What a frame means is the decoder's business (kalshi.h).
 */
#ifndef SSMD_CAPNP_H
#define SSMD_CAPNP_H

#include "json.h"
#include "ssmd.h"

enum { SSMD_LEVEL_BYTES = 16 };

/* Words of data and pointers of each body struct. */
typedef struct ssmd_body_layout {
    uint8_t words;
    uint8_t pointers;
} ssmd_body_layout;

static const ssmd_body_layout SSMD_BODY_LAYOUTS[SSMD_KIND_COUNT] = {
    [SSMD_KIND_UNPARSED] = {1, 1}, [SSMD_KIND_TRADE] = {2, 2},      [SSMD_KIND_TICKER] = {9, 1},
    [SSMD_KIND_BOOK] = {4, 3},     [SSMD_KIND_STATUS] = {5, 4},     [SSMD_KIND_INDEX] = {4, 1},
    [SSMD_KIND_CONTROL] = {3, 2},  [SSMD_KIND_GAP] = {6, 2},        [SSMD_KIND_CONNECTION] = {5, 3},
    [SSMD_KIND_CLOCK] = {5, 0},    [SSMD_KIND_CHECKPOINT] = {5, 0}, [SSMD_KIND_ENTRY] = {0, 3},
};

typedef struct ssmd_record_header {
    uint64_t number;
    int64_t recv_ns;
    uint64_t recv_ticks;
    int64_t exchange_ns;
    int64_t sent_ns;
    uint32_t connection;
    uint32_t sid;
    uint64_t seq;
} ssmd_record_header;

/* A record being written: `next` is where the next object goes. */
typedef struct ssmd_record_builder {
    uint8_t *record;
    uint8_t *next;
    uint8_t *pointers; /* of the body */
} ssmd_record_builder;

typedef enum ssmd_gap_cause { SSMD_GAP_SEQUENCE = 0, SSMD_GAP_FRAME_TOO_LARGE = 6 } ssmd_gap_cause;

typedef struct ssmd_gap {
    ssmd_gap_cause cause;
    uint64_t from_seq, to_seq;
    int64_t from_ns, to_ns;
    uint64_t length_bytes;
    ssmd_text head;
} ssmd_gap;

static inline void ssmd_store16(uint8_t *at, uint16_t value)
{
    memcpy(at, &value, sizeof value);
}
static inline void ssmd_store32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}
static inline void ssmd_store64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}
static inline void ssmd_store32i(uint8_t *at, int32_t value)
{
    memcpy(at, &value, sizeof value);
}
static inline void ssmd_store64i(uint8_t *at, int64_t value)
{
    memcpy(at, &value, sizeof value);
}

/* Room that an object takes; absent ones take none. */
static inline size_t ssmd_data_bytes(size_t n)
{
    return (n + 7u) & ~(size_t)7u;
}
static inline size_t ssmd_text_bytes(size_t n)
{
    return n == 0 ? 0 : ssmd_data_bytes(n + 1);
}
static inline size_t ssmd_levels_bytes(size_t count)
{
    return count == 0 ? 0 : 8u + count * SSMD_LEVEL_BYTES;
}
static inline size_t ssmd_fixed_bytes(ssmd_kind kind)
{
    return SSMD_RECORD_HEADER_BYTES + 8u * (size_t)(SSMD_BODY_LAYOUTS[kind].words + SSMD_BODY_LAYOUTS[kind].pointers);
}

/* Header and an empty body of `kind`; gives the body's data section. */
static inline uint8_t *ssmd_record_begin(ssmd_record_builder *builder, uint8_t *at, ssmd_kind kind,
                                         const ssmd_record_header *header)
{
    uint64_t words = SSMD_BODY_LAYOUTS[kind].words, pointers = SSMD_BODY_LAYOUTS[kind].pointers;
    uint8_t *body = at + SSMD_RECORD_HEADER_BYTES;
    ssmd_store64(at + 8, (uint64_t)8 << 32 | (uint64_t)2 << 48);
    ssmd_store64(at + SSMD_RECORD_NUMBER, header->number);
    ssmd_store64i(at + SSMD_RECORD_RECV_NS, header->recv_ns);
    ssmd_store64(at + SSMD_RECORD_RECV_TICKS, header->recv_ticks);
    ssmd_store64i(at + SSMD_RECORD_EXCHANGE_NS, header->exchange_ns);
    ssmd_store64i(at + SSMD_RECORD_SENT_NS, header->sent_ns);
    ssmd_store32(at + SSMD_RECORD_CONNECTION, header->connection);
    ssmd_store32(at + SSMD_RECORD_SID, header->sid);
    ssmd_store64(at + SSMD_RECORD_SEQ, header->seq);
    ssmd_store64(at + SSMD_RECORD_KIND, (uint64_t)kind);
    ssmd_store64(at + SSMD_RECORD_FRAME_POINTER, 0);
    ssmd_store64(at + SSMD_RECORD_BODY_POINTER, words << 32 | pointers << 48);
    builder->record = at;
    builder->pointers = body + 8 * words;
    builder->next = builder->pointers + 8 * pointers;
    for (uint8_t *word = body; word < builder->next; word += 8)
        ssmd_store64(word, 0);
    return body;
}

/* What a pointer standing at `pointer` needs to reach `target`. */
static inline uint64_t ssmd_word_offset(const uint8_t *pointer, const uint8_t *target)
{
    return (uint64_t)((target - pointer) / 8 - 1);
}

/* Copies n bytes and fills the last word with zeros. Reads nothing outside of the n bytes. */
static inline void ssmd_copy_padded(uint8_t *to, const uint8_t *from, size_t n)
{
    size_t rest = n & 7u;
    if (SSMD_LIKELY(n >= 8)) {
        const uint8_t *last = from + n - 8;
        for (size_t whole = n >> 3; whole > 0; whole--, to += 8, from += 8)
            ssmd_store64(to, ssmd_load64(from));
        if (rest != 0)
            ssmd_store64(to, ssmd_load64(last) >> (8u * (8u - rest)));
    } else if (rest != 0) {
        uint64_t word = 0;
        memcpy(&word, from, rest);
        ssmd_store64(to, word);
    }
}

/* Text number `index` among the body's pointers; with its closing NUL. Empty: nothing. */
static inline void ssmd_record_text(ssmd_record_builder *builder, unsigned index, ssmd_text text)
{
    if (text.n == 0)
        return;
    uint8_t *pointer = builder->pointers + 8u * index, *to = builder->next;
    ssmd_store64(pointer, ssmd_word_offset(pointer, to) << 2 | 1u | (uint64_t)2 << 32 | (uint64_t)(text.n + 1) << 35);
    if ((text.n & 7u) == 0)
        ssmd_store64(to + text.n, 0); /* the NUL has a word of its own */
    ssmd_copy_padded(to, text.at, text.n);
    builder->next = to + ssmd_text_bytes(text.n);
}

static inline void ssmd_pointer_to_bytes(ssmd_record_builder *builder, uint8_t *pointer, ssmd_text data)
{
    if (data.n == 0)
        return;
    uint8_t *to = builder->next;
    ssmd_store64(pointer, ssmd_word_offset(pointer, to) << 2 | 1u | (uint64_t)2 << 32 | (uint64_t)data.n << 35);
    size_t bytes = ssmd_data_bytes(data.n);
    ssmd_store64(to + bytes - 8, 0);
    memcpy(to, data.at, data.n);
    builder->next = to + bytes;
}

/* List of levels number `index` among the pointers: gives room for `count` of them, to be filled by the caller
 * (SSMD_LEVEL_BYTES each: i32 price, 4 bytes zero, i64 count). Must not be empty. */
static inline uint8_t *ssmd_record_levels(ssmd_record_builder *builder, unsigned index, size_t count)
{
    uint8_t *pointer = builder->pointers + 8u * index, *to = builder->next;
    ssmd_store64(pointer, ssmd_word_offset(pointer, to) << 2 | 1u | (uint64_t)7 << 32 | (uint64_t)count << 36);
    ssmd_store64(to, (uint64_t)count << 2 | (uint64_t)2 << 32);
    builder->next = to + ssmd_levels_bytes(count);
    return to + 8;
}

/* The frame, and the framing; gives the size of the record. */
static inline size_t ssmd_record_end(ssmd_record_builder *builder, ssmd_text frame)
{
    ssmd_pointer_to_bytes(builder, builder->record + SSMD_RECORD_FRAME_POINTER, frame);
    size_t bytes = (size_t)(builder->next - builder->record);
    ssmd_store64(builder->record, (uint64_t)(bytes / 8 - 1) << 32);
    return bytes;
}

/* A Gap record, whole. */
size_t ssmd_gap_bytes(const ssmd_gap *gap);
size_t ssmd_gap_write(uint8_t *at, const ssmd_record_header *header, const ssmd_gap *gap);

/* Is this one record of our schema: one segment that fills exactly n bytes, with the root where we put it? Looks at
 * the frame of the message only, not at what the pointers inside it say. */
bool ssmd_record_is_framed(const uint8_t *record, size_t n);

#endif
