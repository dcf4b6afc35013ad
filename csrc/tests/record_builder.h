/* record_builder.h - makes records word by word for tests, from the schema's layout and nothing of the library. */
#ifndef SSMD_RECORD_BUILDER_H
#define SSMD_RECORD_BUILDER_H

#include <stdint.h>
#include <string.h>

enum { BUILDER_WORDS = 4096 };

typedef struct builder {
    uint64_t words[BUILDER_WORDS]; /* words[0] is the segment table, words[1] the root pointer */
    unsigned count;
    unsigned record_pointers; /* index of the Record's first pointer */
    unsigned body, body_pointers;
} builder;

static inline uint64_t builder_struct(int32_t offset, uint64_t data_words, uint64_t pointers)
{
    return (uint32_t)offset << 2 | data_words << 32 | pointers << 48;
}

static inline uint64_t builder_list(int32_t offset, uint64_t size_code, uint64_t count)
{
    return (uint32_t)offset << 2 | 1u | size_code << 32 | count << 35;
}

/* A Record of kind `kind` with extra words and pointers behind those of schema version 1, and its body. */
static inline void builder_start(builder *b, unsigned kind, unsigned extra_data, unsigned extra_pointers,
                                 unsigned body_data, unsigned body_pointers)
{
    memset(b, 0, sizeof *b);
    unsigned data = 8 + extra_data, pointers = 2 + extra_pointers;
    b->words[1] = builder_struct(0, data, pointers);
    b->record_pointers = 2 + data;
    b->body = b->record_pointers + pointers;
    b->body_pointers = b->body + body_data;
    b->count = b->body_pointers + body_pointers;
    b->words[9] = kind;
    b->words[b->record_pointers + 1] =
        builder_struct((int32_t)(b->body - b->record_pointers - 2), body_data, body_pointers);
}

static inline void builder_header(builder *b, uint64_t number, int64_t recv_ns, uint32_t connection, uint32_t sid,
                                  uint64_t seq)
{
    b->words[2] = number;
    b->words[3] = (uint64_t)recv_ns;
    b->words[7] = connection | (uint64_t)sid << 32;
    b->words[8] = seq;
}

/* Bytes for the pointer word at `place`, padded to a word. */
static inline void builder_bytes(builder *b, unsigned place, const void *bytes, size_t n)
{
    b->words[place] = builder_list((int32_t)(b->count - place - 1), 2, n);
    memcpy(&b->words[b->count], bytes, n);
    b->count += (unsigned)((n + 7) / 8);
}

static inline void builder_text(builder *b, unsigned pointer, const char *text)
{
    builder_bytes(b, b->body_pointers + pointer, text, strlen(text) + 1);
}

/* `levels` is price, count, price, count ... */
static inline void builder_levels(builder *b, unsigned pointer, const int64_t *levels, unsigned n)
{
    unsigned place = b->body_pointers + pointer;
    b->words[place] = builder_list((int32_t)(b->count - place - 1), 7, 2 * n);
    b->words[b->count++] = builder_struct((int32_t)n, 2, 0);
    for (unsigned i = 0; i < 2 * n; i++)
        b->words[b->count++] = i % 2 ? (uint64_t)levels[i] : (uint32_t)levels[i];
}

/* `texts` is name, value, name, value ... */
static inline void builder_headers(builder *b, unsigned pointer, const char *const *texts, unsigned n)
{
    unsigned place = b->body_pointers + pointer, first = b->count + 1;
    b->words[place] = builder_list((int32_t)(b->count - place - 1), 7, 2 * n);
    b->words[b->count] = builder_struct((int32_t)n, 0, 2);
    b->count = first + 2 * n;
    for (unsigned i = 0; i < 2 * n; i++)
        builder_bytes(b, first + i, texts[i], strlen(texts[i]) + 1);
}

static inline void builder_frame(builder *b, const char *frame)
{
    builder_bytes(b, b->record_pointers, frame, strlen(frame));
}

/* Writes the segment table; gives the record's length in bytes. */
static inline size_t builder_end(builder *b)
{
    b->words[0] = (uint64_t)(b->count - 1) << 32;
    return 8 * (size_t)b->count;
}

#endif
