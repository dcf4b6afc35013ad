/* record_check.h - reads a record back by the rules of Cap'n Proto's encoding page, knowing nothing of the writer.
 *
 * record_check says whether the bytes are one message of our layout: one segment, all objects behind each other in the
 * order of docs/records.md without holes, every pointer inside, texts closed by NUL, padding zero.
 */
#ifndef SSMD_TESTS_RECORD_CHECK_H
#define SSMD_TESTS_RECORD_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t get64(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}
static inline uint32_t get32(const uint8_t *at)
{
    return (uint32_t)(get64(at) & 0xFFFFFFFFu);
}
static inline uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

typedef struct record_view {
    uint16_t kind;
    const uint8_t *data;     /* of the body */
    const uint8_t *pointers; /* of the body */
    unsigned words, pointer_count;
    const uint8_t *frame; /* NULL: null */
    uint64_t frame_bytes;
} record_view;

/* Words and pointers of the bodies, from `capnp compile -ocapnp schemas/market_data.capnp`. */
static const unsigned char BODY_SHAPES[12][2] = {{1, 1}, {2, 2}, {9, 1}, {4, 3}, {5, 4}, {4, 1},
                                                 {3, 2}, {6, 2}, {5, 3}, {5, 0}, {5, 0}, {0, 3}};

/* Target of a pointer: words from its end, signed 30 bits. */
static inline const uint8_t *pointer_target(const uint8_t *pointer)
{
    int32_t offset = (int32_t)get32(pointer) >> 2;
    return pointer + 8 + 8 * (int64_t)offset;
}

/* One list of bytes that has to start at *next; moves *next behind it. */
static inline bool check_bytes(const uint8_t *pointer, const uint8_t **next, const uint8_t *end, bool text)
{
    uint64_t raw = get64(pointer), n = raw >> 35;
    if (raw == 0)
        return true;
    if ((raw & 3) != 1 || (raw >> 32 & 7) != 2 || pointer_target(pointer) != *next || n == 0)
        return false;
    uint64_t padded = (n + 7) / 8 * 8;
    if (padded > (uint64_t)(end - *next))
        return false;
    for (uint64_t i = n; i < padded; i++)
        if ((*next)[i] != 0)
            return false;
    if (text && ((*next)[n - 1] != 0 || n == 1))
        return false;
    *next += padded;
    return true;
}

static inline bool check_levels(const uint8_t *pointer, const uint8_t **next, const uint8_t *end)
{
    uint64_t raw = get64(pointer), words = raw >> 35;
    if (raw == 0)
        return true;
    if ((raw & 3) != 1 || (raw >> 32 & 7) != 7 || pointer_target(pointer) != *next || words == 0 || words % 2 != 0)
        return false;
    if (8 + words * 8 > (uint64_t)(end - *next) || get64(*next) != (words / 2 << 2 | (uint64_t)2 << 32))
        return false;
    for (uint64_t i = 0; i < words / 2; i++)
        if (get32(*next + 8 + 16 * i + 4) != 0)
            return false;
    *next += 8 + words * 8;
    return true;
}

static inline bool record_check(const uint8_t *record, uint64_t n, record_view *view)
{
    if (n < 96 || n % 8 != 0 || get32(record) != 0 || get32(record + 4) != n / 8 - 1)
        return false;
    if (get64(record + 8) != ((uint64_t)8 << 32 | (uint64_t)2 << 48))
        return false;
    view->kind = get16(record + 72);
    if (view->kind > 11 || get16(record + 74) != 0 || get32(record + 76) != 0)
        return false;
    view->words = BODY_SHAPES[view->kind][0];
    view->pointer_count = BODY_SHAPES[view->kind][1];
    const uint8_t *end = record + n;
    uint64_t body = (uint64_t)view->words << 32 | (uint64_t)view->pointer_count << 48;
    if (get64(record + 88) != body || 8 * (view->words + view->pointer_count) > (uint64_t)(end - (record + 96)))
        return false;
    view->data = record + 96;
    view->pointers = view->data + 8 * view->words;
    const uint8_t *next = view->pointers + 8 * view->pointer_count;
    for (unsigned i = 0; i < view->pointer_count; i++) {
        bool levels = view->kind == 3 && i > 0, text = !(view->kind == 7 && i == 0);
        const uint8_t *pointer = view->pointers + 8 * i;
        if (!(levels ? check_levels(pointer, &next, end) : check_bytes(pointer, &next, end, text)))
            return false;
    }
    view->frame = get64(record + 80) == 0 ? NULL : next;
    view->frame_bytes = get64(record + 80) >> 35;
    return check_bytes(record + 80, &next, end, false) && next == end;
}

/* Is text `index` of the body this word? "" = null. */
static inline bool text_equals(const record_view *view, unsigned index, const char *word)
{
    const uint8_t *pointer = view->pointers + 8 * index;
    uint64_t raw = get64(pointer);
    if (raw == 0)
        return word[0] == 0;
    return raw >> 35 == strlen(word) + 1 && memcmp(pointer_target(pointer), word, strlen(word) + 1) == 0;
}

#endif
