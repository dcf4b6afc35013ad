/* test_walk.c - one record: every field, every way to be wrong; one segment: checkpoints, cuts, flips, tails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "crc32c.h"
#include "record_builder.h"
#include "walk.h"

static const char MARKET[] = "KXHIGHNY-26NOV22-B53.5";
static const char FRAME[] = "{\"type\":\"trade\"}\n";

/* ---- a stretch of memory whose end is the end of the page: one byte further is a fault ------------------------- */

typedef struct guarded {
    uint8_t *base, *end;
    size_t page;
} guarded;

static void guarded_open(guarded *g, size_t room)
{
    g->page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = (room + g->page - 1) / g->page * g->page;
    g->base = mmap(NULL, size + g->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(g->base, MAP_FAILED);
    g->end = g->base + size;
    assert_int_equal(mprotect(g->end, g->page, PROT_NONE), 0);
}

static uint8_t *guarded_put(const guarded *g, const void *data, size_t n)
{
    return memcpy(g->end - n, data, n);
}

static void guarded_close(const guarded *g)
{
    munmap(g->base, (size_t)(g->end - g->base) + g->page);
}

/* ---- records ------------------------------------------------------------------------------------ */

static size_t make_trade(builder *b, uint64_t number)
{
    builder_start(b, SSMD_KIND_TRADE, 0, 0, 2, 2);
    builder_header(b, number, 1790000000000000000 + (int64_t)number, 3, 7, number + 100);
    b->words[4] = 555;                            /* recvTicks */
    b->words[5] = 777;                            /* exchangeNs */
    b->words[6] = 888;                            /* sentNs */
    b->words[b->body] = 4700 | (uint64_t)2 << 32; /* priceE4, takerSide no */
    b->words[b->body + 1] = 300;
    builder_text(b, 0, MARKET);
    builder_text(b, 1, "t-1");
    builder_frame(b, FRAME);
    return builder_end(b);
}

static size_t make_book(builder *b, uint64_t number)
{
    static const int64_t bids[] = {4600, 100, 4700, 300};
    static const int64_t asks[] = {5200, 200};
    builder_start(b, SSMD_KIND_BOOK, 0, 0, 4, 3);
    builder_header(b, number, 5, 1, 2, 1);
    builder_text(b, 0, "M");
    builder_levels(b, 1, bids, 2);
    builder_levels(b, 2, asks, 1);
    return builder_end(b);
}

static int read_builder(const builder *b, size_t n)
{
    ssmd_view view;
    return ssmd_view_read((const uint8_t *)b->words, n, &view);
}

static void every_field_of_a_trade_is_found(void **state)
{
    (void)state;
    builder b;
    size_t n = make_trade(&b, 42);
    const uint8_t *at = (const uint8_t *)b.words;
    ssmd_view view;
    assert_int_equal(ssmd_view_read(at, n, &view), SSMD_FAULT_NONE);
    assert_int_equal(view.number, 42);
    assert_int_equal(view.recv_ns, 1790000000000000042);
    assert_int_equal(view.recv_ticks, 555);
    assert_int_equal(view.exchange_ns, 777);
    assert_int_equal(view.sent_ns, 888);
    assert_int_equal(view.connection, 3);
    assert_int_equal(view.sid, 7);
    assert_int_equal(view.seq, 142);
    assert_int_equal(view.length, n);
    assert_int_equal(view.kind, SSMD_KIND_TRADE);
    assert_int_equal(view.sub, 2);
    assert_int_equal(view.market_bytes, strlen(MARKET));
    assert_memory_equal(at + view.market_at, MARKET, strlen(MARKET));
    assert_int_equal(view.frame_bytes, strlen(FRAME));
    assert_memory_equal(at + view.frame_at, FRAME, strlen(FRAME));
    assert_int_equal(view.body_at, SSMD_RECORD_HEADER_BYTES);
    assert_int_equal(view.pointers_at, SSMD_RECORD_HEADER_BYTES + 16);
}

static void null_frame_and_null_market_are_null(void **state)
{
    (void)state;
    builder b;
    builder_start(&b, SSMD_KIND_STATUS, 0, 0, 5, 4);
    ssmd_view view;
    assert_int_equal(ssmd_view_read((uint8_t *)b.words, builder_end(&b), &view), SSMD_FAULT_NONE);
    assert_int_equal(view.frame_at, 0);
    assert_int_equal(view.market_at, 0);
}

static void a_record_cut_anywhere_is_incomplete_and_nothing_beyond_is_read(void **state)
{
    (void)state;
    guarded g;
    guarded_open(&g, sizeof(builder));
    builder b;
    for (int kind = 0; kind < 2; kind++) {
        size_t n = kind ? make_book(&b, 1) : make_trade(&b, 1);
        for (size_t cut = 0; cut < n; cut++) {
            ssmd_view view;
            assert_int_equal(ssmd_view_read(guarded_put(&g, b.words, cut), cut, &view), SSMD_FAULT_INCOMPLETE);
        }
    }
    guarded_close(&g);
}

/* Whatever one bit does, the answer stays inside the record. */
static void any_flipped_bit_gives_a_fault_or_a_view_inside_the_record(void **state)
{
    (void)state;
    guarded g;
    guarded_open(&g, sizeof(builder));
    builder b;
    for (int kind = 0; kind < 2; kind++) {
        size_t n = kind ? make_book(&b, 1) : make_trade(&b, 1);
        uint8_t *at = guarded_put(&g, b.words, n);
        for (size_t bit = 0; bit < 8 * n; bit++) {
            at[bit / 8] ^= (uint8_t)(1u << bit % 8);
            ssmd_view view;
            if (ssmd_view_read(at, n, &view) == SSMD_FAULT_NONE) {
                assert_true(view.length <= n);
                assert_true((uint64_t)view.frame_at + view.frame_bytes <= view.length);
                assert_true((uint64_t)view.market_at + view.market_bytes <= view.length);
                assert_true(view.body_at <= view.length && view.pointers_at <= view.length);
            }
            at[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
    guarded_close(&g);
}

static void broken_framing_is_named(void **state)
{
    (void)state;
    builder b;
    size_t n = make_trade(&b, 1);
    b.words[0] |= 1; /* two segments */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FRAMING);
    b.words[0] = 0;
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_ZEROS);
    b.words[0] = (uint64_t)10 << 32; /* one word less than a Record */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_SIZE);
    b.words[0] = (uint64_t)(SSMD_RECORD_LIMIT / 8) << 32;
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_SIZE);
}

static void a_root_that_is_no_record_is_named(void **state)
{
    (void)state;
    static const uint64_t roots[] = {0, (uint64_t)8 << 32 | (uint64_t)1 << 48, (uint64_t)7 << 32 | (uint64_t)2 << 48,
                                     (uint64_t)8 << 32 | (uint64_t)2 << 48 | 4,
                                     (uint64_t)8 << 32 | (uint64_t)2 << 48 | 1};
    builder b;
    size_t n = make_trade(&b, 1);
    for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++) {
        b.words[1] = roots[i];
        assert_int_equal(read_builder(&b, n), SSMD_FAULT_ROOT);
    }
}

static void bad_pointers_are_refused(void **state)
{
    (void)state;
    builder b;
    size_t n = make_trade(&b, 1);
    unsigned body = b.record_pointers + 1, market = b.body_pointers;
    const uint64_t good_body = b.words[body], good_market = b.words[market];
    const uint64_t bad_bodies[] = {
        builder_struct(1 << 20, 2, 2),                       /* far behind the end */
        builder_struct(-40, 2, 2),                           /* before the start */
        builder_struct((int32_t)(b.count - body - 2), 2, 2), /* begins in the last word */
        2,                                                   /* far pointer */
        3,                                                   /* capability */
        builder_struct(-(int32_t)body, 8, 2),                /* the Record again: a circle */
    };
    for (size_t i = 0; i < sizeof bad_bodies / sizeof bad_bodies[0]; i++) {
        b.words[body] = bad_bodies[i];
        assert_int_equal(read_builder(&b, n), SSMD_FAULT_POINTER);
    }
    b.words[body] = good_body;
    b.words[market] = builder_list(0, 2, (1u << 29) - 1); /* longer than the record */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_POINTER);
    b.words[market] = builder_list(-1, 6, 1); /* a list of pointers that holds itself */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_POINTER);
    b.words[market] = good_market;
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_NONE);
}

static void two_pointers_to_one_object_are_more_than_the_record_holds(void **state)
{
    (void)state;
    builder b;
    size_t n = make_trade(&b, 1);
    b.words[b.record_pointers] = builder_list((int32_t)(b.body - b.record_pointers - 1), 2, 8 * (b.count - b.body));
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_POINTER);
}

static void composite_lists_must_fit_their_words(void **state)
{
    (void)state;
    builder b;
    size_t n = make_book(&b, 1);
    unsigned tag = b.body_pointers + 3 + 1; /* the market takes one word, then the tag of bids */
    assert_int_equal(b.words[tag], builder_struct(2, 2, 0));
    b.words[tag] = builder_struct(3, 2, 0);
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_POINTER);
    b.words[tag] = builder_struct(2, 2, 0) | 1;
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_POINTER);
    b.words[tag] = builder_struct(4, 1, 0); /* fits, but a level has two words */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
    b.words[tag] = builder_struct((1 << 29), 0, 0); /* half a billion levels of nothing */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
}

static void bodies_must_fit_their_kind(void **state)
{
    (void)state;
    builder b;
    size_t n = make_trade(&b, 1);
    b.words[9] = SSMD_KIND_TICKER; /* needs nine words of data */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_BODY);
    n = make_trade(&b, 1);
    b.words[b.record_pointers + 1] = 0;
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_BODY);
}

static void texts_end_in_nul_and_are_lists_of_bytes(void **state)
{
    (void)state;
    builder b;
    size_t n = make_trade(&b, 1);
    unsigned market = b.body_pointers;
    uint64_t good = b.words[market];
    b.words[market] = good - ((uint64_t)1 << 35); /* one byte less: the NUL is outside */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
    b.words[market] = builder_list(0, 2, 0); /* no NUL at all */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
    b.words[market] = builder_list(0, 5, 1); /* a list of words */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
}

static size_t make_entry(builder *b)
{
    static const char *const headers[] = {"Name", "value", "Other", ""};
    builder_start(b, SSMD_KIND_ENTRY, 0, 0, 0, 3);
    builder_text(b, 0, "notes");
    builder_headers(b, 1, headers, 2);
    builder_bytes(b, b->body_pointers + 2, "payload", 7);
    return builder_end(b);
}

static void an_entry_is_read_and_its_headers_are_texts(void **state)
{
    (void)state;
    builder b;
    size_t n = make_entry(&b);
    ssmd_view view;
    assert_int_equal(ssmd_view_read((uint8_t *)b.words, n, &view), SSMD_FAULT_NONE);
    assert_int_equal(view.kind, SSMD_KIND_ENTRY);
    assert_int_equal(view.sub, 0); /* it has no leading enum, and no data section to look for one */
    unsigned tag = b.body_pointers + 3 + 1, value = tag + 2;
    assert_int_equal(b.words[tag], builder_struct(2, 0, 2));
    uint64_t good = b.words[value];
    b.words[value] = good - ((uint64_t)1 << 35); /* one byte less: the NUL is outside */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
    b.words[value] = 0; /* a null text is one */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_NONE);
    b.words[value] = good;
    b.words[tag] = builder_struct(4, 0, 1); /* fits, but a header has two texts */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
    b.words[tag] = builder_struct((1 << 29), 0, 0); /* half a billion headers of nothing */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
    b.words[b.body_pointers + 1] = builder_list(2, 2, 8); /* bytes, not a list of structs */
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_FIELD);
}

static void larger_structs_of_later_schemas_are_read(void **state)
{
    (void)state;
    builder b;
    builder_start(&b, SSMD_KIND_TRADE, 2, 1, 4, 3);
    builder_header(&b, 9, 10, 1, 2, 3);
    builder_text(&b, 0, MARKET);
    builder_text(&b, 2, "something new");
    builder_frame(&b, FRAME);
    size_t n = builder_end(&b);
    ssmd_view view;
    const uint8_t *at = (const uint8_t *)b.words;
    assert_int_equal(ssmd_view_read(at, n, &view), SSMD_FAULT_NONE);
    assert_int_equal(view.number, 9);
    assert_memory_equal(at + view.market_at, MARKET, view.market_bytes);
    assert_memory_equal(at + view.frame_at, FRAME, strlen(FRAME));
    assert_int_equal(view.body_at, 8 * b.body);
    assert_int_equal(view.pointers_at, 8 * b.body_pointers);
}

static void kinds_of_later_schemas_are_read_without_their_body(void **state)
{
    (void)state;
    builder b;
    builder_start(&b, 77, 0, 0, 1, 0);
    size_t n = builder_end(&b);
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_NONE);
    b.words[b.record_pointers + 1] = 0;
    assert_int_equal(read_builder(&b, n), SSMD_FAULT_NONE);
}

/* ---- segments ----------------------------------------------------------------------------------- */

typedef struct segment {
    uint8_t data[16384];
    size_t size, batch_at;
    uint64_t records, number;
} segment;

static void segment_trade(segment *s)
{
    builder b;
    size_t n = make_trade(&b, ++s->number);
    memcpy(s->data + s->size, b.words, n);
    s->size += n;
    s->records++;
}

static void segment_stopped(segment *s)
{
    builder b;
    builder_start(&b, SSMD_KIND_CONNECTION, 0, 0, 5, 3);
    builder_header(&b, ++s->number, 6, 0, 0, 0);
    b.words[b.body] = 5; /* stopped */
    size_t n = builder_end(&b);
    memcpy(s->data + s->size, b.words, n);
    s->size += n;
    s->records++;
}

/* `wrong` is added to one field of the checkpoint, before the CRC is taken: 1 bytes, 2 offset, 3 records, 0 none. */
static void segment_checkpoint_with(segment *s, bool final, int field, uint64_t wrong)
{
    builder b;
    builder_start(&b, SSMD_KIND_CHECKPOINT, 0, 0, 5, 0);
    builder_header(&b, s->number, 7, 0, 0, 0);
    size_t n = builder_end(&b);
    uint64_t *body = &b.words[b.body];
    body[0] = (uint64_t)9 << 32; /* maxConnection */
    body[1] = s->size + n - s->batch_at;
    body[2] = s->size;
    body[3] = s->records;
    body[4] = final;
    body[field] += wrong;
    memcpy(s->data + s->size, b.words, n);
    body[0] |= ssmd_crc32c_portable(0, s->data + s->batch_at, s->size + n - s->batch_at);
    memcpy(s->data + s->size, b.words, n);
    s->size += n;
    s->batch_at = s->size;
}

static void segment_checkpoint(segment *s, bool final)
{
    segment_checkpoint_with(s, final, 1, 0);
}

/* Two batches of two trades; the second checkpoint is final if asked. */
static size_t make_segment(segment *s, bool final)
{
    *s = (segment){.number = 10};
    segment_trade(s);
    segment_trade(s);
    segment_checkpoint(s, false);
    size_t first = s->size;
    segment_trade(s);
    segment_trade(s);
    segment_checkpoint(s, final);
    return first;
}

static void a_whole_segment_is_proved_to_its_end(void **state)
{
    (void)state;
    segment s;
    make_segment(&s, true);
    ssmd_walk walk = {0};
    assert_int_equal(ssmd_walk_scan(&walk, s.data, s.size, true), SSMD_OK);
    assert_int_equal(walk.good.offset, s.size);
    assert_int_equal(walk.good.records, 4);
    assert_int_equal(walk.good.last_number, 14);
    assert_int_equal(walk.good.last_recv_ns, 1790000000000000014);
    assert_int_equal(walk.good.max_connection, 9);
    assert_int_equal(walk.good.clean, 0);
    assert_int_equal(walk.first_number, 11);
    assert_int_equal(walk.checkpoints, 2);
    assert_true(walk.final);
}

static void a_journal_that_was_stopped_is_clean(void **state)
{
    (void)state;
    segment s = {0};
    segment_trade(&s);
    segment_stopped(&s);
    segment_checkpoint(&s, true);
    ssmd_walk walk = {0};
    assert_int_equal(ssmd_walk_scan(&walk, s.data, s.size, true), SSMD_OK);
    assert_int_equal(walk.good.clean, 1);
}

/* The same in pieces: nothing depends on how much is there at once. */
static void a_segment_read_in_two_pieces_is_the_same(void **state)
{
    (void)state;
    segment s;
    make_segment(&s, true);
    for (size_t cut = 0; cut <= s.size; cut++) {
        ssmd_walk walk = {0};
        while (ssmd_walk_next(&walk, s.data + walk.at.offset, cut - walk.at.offset) == SSMD_OK)
            ;
        assert_int_equal(walk.fault, SSMD_FAULT_NONE);
        while (ssmd_walk_next(&walk, s.data + walk.at.offset, s.size - walk.at.offset) == SSMD_OK)
            ;
        assert_int_equal(ssmd_walk_end(&walk, 0, true), SSMD_OK);
        assert_int_equal(walk.good.offset, s.size);
    }
}

static void a_flip_in_the_last_batch_leaves_the_first(void **state)
{
    (void)state;
    segment s;
    size_t first = make_segment(&s, true);
    guarded g;
    guarded_open(&g, s.size);
    uint8_t *at = guarded_put(&g, s.data, s.size);
    for (size_t i = first; i < s.size; i++) {
        at[i] ^= 0x5a;
        ssmd_walk walk = {0};
        assert_int_equal(ssmd_walk_scan(&walk, at, s.size, true), SSMD_DAMAGED);
        assert_int_equal(walk.good.offset, first);
        assert_int_equal(walk.good.last_number, 12);
        assert_true(walk.fault_offset >= first);
        at[i] ^= 0x5a;
    }
    guarded_close(&g);
}

/* Whatever is wrong in the second of three batches, its checkpoint included, the third is found where it begins. */
static void after_damage_the_next_batch_that_proves_itself_is_found(void **state)
{
    (void)state;
    segment s;
    size_t first = make_segment(&s, false), second = s.size;
    segment_trade(&s);
    segment_checkpoint(&s, true);
    guarded g;
    guarded_open(&g, s.size);
    uint8_t *at = guarded_put(&g, s.data, s.size);
    for (size_t i = first; i < second; i++) {
        at[i] ^= 0x5a;
        ssmd_walk walk = {0};
        uint64_t place = first;
        assert_int_equal(ssmd_walk_scan(&walk, at, s.size, true), SSMD_DAMAGED);
        assert_int_equal(ssmd_walk_resync(&walk, at + first, s.size - first, first, &place), SSMD_OK);
        assert_int_equal(walk.good.offset, second);
        assert_int_equal(walk.good.records, 4); /* two before, two lost */
        assert_int_equal(ssmd_walk_scan(&walk, at + second, s.size - second, true), SSMD_OK);
        assert_int_equal(walk.good.records, 5);
        assert_int_equal(walk.good.last_number, 15);
        assert_true(walk.final);
        at[i] ^= 0x5a;
    }
    guarded_close(&g);
}

/* With every number of bytes the search ends at the end of them, and goes on from there. */
static void the_search_after_damage_goes_on_when_more_bytes_come(void **state)
{
    (void)state;
    segment s;
    size_t first = make_segment(&s, false), second = s.size;
    segment_trade(&s);
    segment_checkpoint(&s, true);
    s.data[first + 20] ^= 1;
    guarded g;
    guarded_open(&g, s.size);
    for (size_t cut = first; cut < s.size; cut++) {
        ssmd_walk walk = {.at.offset = first, .good.offset = first, .good.records = 2, .fault = SSMD_FAULT_CRC};
        uint64_t place = first;
        const uint8_t *at = guarded_put(&g, s.data + first, cut - first);
        assert_int_equal(ssmd_walk_resync(&walk, at, cut - first, first, &place), SSMD_EMPTY);
        assert_int_equal(walk.good.offset, first);
        at = guarded_put(&g, s.data + first, s.size - first);
        assert_int_equal(ssmd_walk_resync(&walk, at, s.size - first, first, &place), SSMD_OK);
        assert_int_equal(walk.good.offset, second);
    }
    guarded_close(&g);
}

/* A batch elsewhere than its checkpoint says is not taken for one: it is a copy, or somebody's idea of one. */
static void a_batch_at_another_place_than_its_own_proves_nothing(void **state)
{
    (void)state;
    segment s;
    size_t first = make_segment(&s, true);
    memmove(s.data + first + 8, s.data + first, s.size - first);
    memset(s.data + first, 0xff, 8);
    ssmd_walk walk = {0};
    uint64_t place = first;
    assert_int_equal(ssmd_walk_scan(&walk, s.data, s.size + 8, true), SSMD_DAMAGED);
    assert_int_equal(ssmd_walk_resync(&walk, s.data + first, s.size + 8 - first, first, &place), SSMD_EMPTY);
    assert_int_equal(walk.good.offset, first);
}

static void a_cut_of_a_sealed_segment_is_damage(void **state)
{
    (void)state;
    segment s;
    size_t first = make_segment(&s, true);
    for (size_t cut = first; cut < s.size; cut++) {
        ssmd_walk walk = {0};
        assert_int_equal(ssmd_walk_scan(&walk, s.data, cut, true), SSMD_DAMAGED);
        assert_int_equal(walk.good.offset, first);
    }
}

static void whole_records_after_the_last_checkpoint_are_an_open_segments_tail(void **state)
{
    (void)state;
    segment s;
    size_t first = make_segment(&s, false);
    builder b;
    size_t one = make_trade(&b, 13);
    ssmd_walk walk = {0};
    assert_int_equal(ssmd_walk_scan(&walk, s.data, first + one, false), SSMD_OK);
    assert_int_equal(walk.good.offset, first);
    assert_int_equal(walk.at.offset, first + one);
    assert_int_equal(walk.at.last_number, 13);
    ssmd_walk cut = {0};
    assert_int_equal(ssmd_walk_scan(&cut, s.data, first + one + 5, false), SSMD_DAMAGED);
    assert_int_equal(cut.fault, SSMD_FAULT_INCOMPLETE);
    assert_int_equal(cut.fault_offset, first + one);
}

static void checkpoints_that_do_not_fit_their_place_are_refused(void **state)
{
    (void)state;
    for (int field = 1; field <= 3; field++) {
        segment s = {.number = 10};
        segment_trade(&s);
        segment_checkpoint_with(&s, true, field, 8);
        ssmd_walk walk = {0};
        assert_int_equal(ssmd_walk_scan(&walk, s.data, s.size, true), SSMD_DAMAGED);
        assert_int_equal(walk.fault, SSMD_FAULT_CHECKPOINT);
        assert_int_equal(walk.good.offset, 0);
    }
}

static void nothing_may_follow_the_final_checkpoint(void **state)
{
    (void)state;
    segment s;
    make_segment(&s, true);
    size_t end = s.size;
    segment_trade(&s);
    ssmd_walk walk = {0};
    assert_int_equal(ssmd_walk_scan(&walk, s.data, s.size, true), SSMD_DAMAGED);
    assert_int_equal(walk.fault, SSMD_FAULT_TRAILING);
    assert_int_equal(walk.fault_offset, end);
}

static void a_sealed_segment_without_final_checkpoint_is_damage(void **state)
{
    (void)state;
    segment s;
    make_segment(&s, false);
    ssmd_walk walk = {0};
    assert_int_equal(ssmd_walk_scan(&walk, s.data, s.size, true), SSMD_DAMAGED);
    assert_int_equal(walk.fault, SSMD_FAULT_UNSEALED);
    ssmd_walk empty = {0};
    assert_int_equal(ssmd_walk_scan(&empty, s.data, 0, true), SSMD_DAMAGED);
    ssmd_walk open = {0};
    assert_int_equal(ssmd_walk_scan(&open, s.data, 0, false), SSMD_OK);
}

/* ---- views -------------------------------------------------------------------------------------- */

static uint64_t views_count(const segment *s, const ssmd_filter *filter)
{
    ssmd_view views[16];
    uint64_t count, used;
    assert_int_equal(ssmd_views_read(s->data, s->size, 0, filter, views, 16, &count, &used), SSMD_OK);
    assert_int_equal(used, s->size);
    return count;
}

static void views_pass_the_filter(void **state)
{
    (void)state;
    segment s;
    make_segment(&s, true);
    const ssmd_filter all = {SSMD_FILTER_ALL, INT64_MIN, INT64_MAX, NULL, 0};
    ssmd_filter filter = all;
    assert_int_equal(views_count(&s, NULL), 6);
    assert_int_equal(views_count(&s, &all), 6);
    filter.kinds = 1u << SSMD_KIND_TRADE;
    assert_int_equal(views_count(&s, &filter), 4);
    filter.from_ns = 1790000000000000012;
    filter.to_ns = 1790000000000000014;
    assert_int_equal(views_count(&s, &filter), 2);
    filter = all;
    filter.markets = "other\0KXHIGHNY-26NOV22-B53.5";
    filter.market_count = 2;
    assert_int_equal(views_count(&s, &filter), 4);
    filter.market_count = 1;
    assert_int_equal(views_count(&s, &filter), 0);
}

static void views_go_on_where_the_array_was_full(void **state)
{
    (void)state;
    segment s;
    make_segment(&s, true);
    ssmd_view views[4];
    uint64_t count, used, more;
    assert_int_equal(ssmd_views_read(s.data, s.size, 1000, NULL, views, 4, &count, &used), SSMD_MORE);
    assert_int_equal(count, 4);
    assert_int_equal(views[0].offset, 1000);
    assert_int_equal(views[1].offset, 1000 + views[0].length);
    assert_int_equal(ssmd_views_read(s.data + used, s.size - used, 1000 + used, NULL, views, 4, &count, &more),
                     SSMD_OK);
    assert_int_equal(count, 2);
    assert_int_equal(used + more, s.size);
}

static void every_fault_has_its_words(void **state)
{
    (void)state;
    for (int fault = SSMD_FAULT_NONE; fault <= SSMD_FAULT_UNSEALED; fault++)
        assert_string_not_equal(ssmd_fault_text(fault), ssmd_fault_text(-1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_of_a_trade_is_found),
        cmocka_unit_test(null_frame_and_null_market_are_null),
        cmocka_unit_test(a_record_cut_anywhere_is_incomplete_and_nothing_beyond_is_read),
        cmocka_unit_test(any_flipped_bit_gives_a_fault_or_a_view_inside_the_record),
        cmocka_unit_test(broken_framing_is_named),
        cmocka_unit_test(a_root_that_is_no_record_is_named),
        cmocka_unit_test(bad_pointers_are_refused),
        cmocka_unit_test(two_pointers_to_one_object_are_more_than_the_record_holds),
        cmocka_unit_test(composite_lists_must_fit_their_words),
        cmocka_unit_test(bodies_must_fit_their_kind),
        cmocka_unit_test(texts_end_in_nul_and_are_lists_of_bytes),
        cmocka_unit_test(an_entry_is_read_and_its_headers_are_texts),
        cmocka_unit_test(larger_structs_of_later_schemas_are_read),
        cmocka_unit_test(kinds_of_later_schemas_are_read_without_their_body),
        cmocka_unit_test(a_whole_segment_is_proved_to_its_end),
        cmocka_unit_test(a_journal_that_was_stopped_is_clean),
        cmocka_unit_test(a_segment_read_in_two_pieces_is_the_same),
        cmocka_unit_test(a_flip_in_the_last_batch_leaves_the_first),
        cmocka_unit_test(after_damage_the_next_batch_that_proves_itself_is_found),
        cmocka_unit_test(the_search_after_damage_goes_on_when_more_bytes_come),
        cmocka_unit_test(a_batch_at_another_place_than_its_own_proves_nothing),
        cmocka_unit_test(a_cut_of_a_sealed_segment_is_damage),
        cmocka_unit_test(whole_records_after_the_last_checkpoint_are_an_open_segments_tail),
        cmocka_unit_test(checkpoints_that_do_not_fit_their_place_are_refused),
        cmocka_unit_test(nothing_may_follow_the_final_checkpoint),
        cmocka_unit_test(a_sealed_segment_without_final_checkpoint_is_damage),
        cmocka_unit_test(views_pass_the_filter),
        cmocka_unit_test(views_go_on_where_the_array_was_full),
        cmocka_unit_test(every_fault_has_its_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
