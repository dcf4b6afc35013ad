/* fuzz_walk.c - any bytes as a segment: never a read outside, never a crash, and the promises of walk.h hold.
 *
 * The first byte chooses what is made of the rest: a segment as it is, or edits (place, value) of a good segment, which
 * reach deeper; with the CRC of every checkpoint mended, so that the fuzzer gets past it; cut in two pieces, which must
 * come to the same. The bytes lie in an allocation of their size, where the sanitizer sees one byte too much.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "record_builder.h"
#include "latest.h"
#include "tally.h"
#include "walk.h"

enum { MEND_CRC = 1, SEALED = 2, SPLIT = 4, EDITS = 8 };

/* ---- a good segment, one record of every shape ------------------------------------------------------ */

static uint8_t template_data[8192];
static uint64_t template_bytes;

static void template_add(builder *b, uint32_t connection, uint32_t sid, uint64_t seq)
{
    static uint64_t number;
    builder_header(b, b->words[9] == SSMD_KIND_CHECKPOINT ? number : ++number, 1, connection, sid, seq);
    size_t n = builder_end(b);
    memcpy(template_data + template_bytes, b->words, n);
    template_bytes += n;
}

static void template_book(uint64_t seq, unsigned delta, int64_t change)
{
    static const int64_t bids[] = {4600, 100, 4700, 300}, asks[] = {5200, 200};
    builder b;
    builder_start(&b, SSMD_KIND_BOOK, 0, 0, 4, 3);
    b.words[b.body] = delta | (uint64_t)delta << 16;
    b.words[b.body + 1] = 4700;
    b.words[b.body + 2] = (uint64_t)change;
    builder_text(&b, 0, "MARKET-1");
    if (!delta) {
        builder_levels(&b, 1, bids, 2);
        builder_levels(&b, 2, asks, 1);
    }
    builder_frame(&b, "{}");
    template_add(&b, 1, 2, seq);
}

static void template_plain(unsigned kind, unsigned data, unsigned pointers, uint64_t first, uint32_t sid, uint64_t seq)
{
    builder b;
    builder_start(&b, kind, 0, 0, data, pointers);
    b.words[b.body] = first;
    for (unsigned i = 0; i < pointers; i++)
        builder_text(&b, i, "text");
    template_add(&b, 1, sid, seq);
}

static void template_entry(void)
{
    static const char *const headers[] = {"Name", "value", "Other", ""};
    builder b;
    builder_start(&b, SSMD_KIND_ENTRY, 0, 0, 0, 3);
    builder_text(&b, 0, "notes.of.a.program");
    builder_headers(&b, 1, headers, 2);
    builder_bytes(&b, b.body_pointers + 2, "payload", 7);
    template_add(&b, 0, 0, 0);
}

static void template_checkpoint(bool final)
{
    builder b;
    static uint64_t batch;
    builder_start(&b, SSMD_KIND_CHECKPOINT, 0, 0, 5, 0);
    b.words[b.body] = (uint64_t)1 << 32;
    b.words[b.body + 1] = template_bytes + 8 * b.count - batch;
    b.words[b.body + 2] = template_bytes;
    b.words[b.body + 3] = final ? 10 : 6;
    b.words[b.body + 4] = final;
    template_add(&b, 0, 0, 0);
    batch = template_bytes;
}

static void template_make(void)
{
    template_plain(SSMD_KIND_CONNECTION, 5, 3, 1, 0, 0);
    template_plain(SSMD_KIND_CONTROL, 3, 2, 0, 0, 0);
    template_plain(SSMD_KIND_TRADE, 2, 2, 4700, 1, 1);
    template_plain(SSMD_KIND_TICKER, 9, 1, 0, 3, 0);
    template_book(1, 0, 0);
    template_book(2, 1, -100);
    template_checkpoint(false);
    template_plain(SSMD_KIND_GAP, 6, 2, 0, 2, 0);
    template_book(5, 0, 0);
    template_plain(SSMD_KIND_STATUS, 5, 4, 1, 4, 1);
    template_entry();
    template_checkpoint(true);
}

/* The good segment with the input's edits: three bytes each, place and what is xored there. */
static uint8_t *template_edited(const uint8_t *input, size_t size, uint64_t *n)
{
    if (template_bytes == 0)
        template_make();
    uint8_t *data = malloc(template_bytes);
    assert(data != NULL);
    memcpy(data, template_data, template_bytes);
    for (size_t i = 0; i + 3 <= size; i += 3)
        data[(input[i] | (unsigned)input[i + 1] << 8) % template_bytes] ^= input[i + 2];
    *n = template_bytes;
    return data;
}

static uint8_t *as_it_is(const uint8_t *input, size_t size, uint64_t *n)
{
    uint8_t *data = malloc(size);
    assert(data != NULL);
    memcpy(data, input, size);
    *n = size;
    return data;
}

/* ---- promises ------------------------------------------------------------------------------------------ */

static void view_inside(const ssmd_view *view, uint64_t n)
{
    assert(view->length <= n && view->length % 8 == 0);
    assert((uint64_t)view->frame_at + view->frame_bytes <= view->length);
    assert((uint64_t)view->market_at + view->market_bytes <= view->length);
    assert(view->body_at <= view->length && view->pointers_at <= view->length);
}

static void crcs_mend(uint8_t *data, uint64_t n)
{
    uint64_t at = 0;
    ssmd_view view;
    for (uint64_t batch = 0; ssmd_view_read(data + at, n - at, &view) == SSMD_FAULT_NONE; at += view.length) {
        if (view.kind != SSMD_KIND_CHECKPOINT)
            continue;
        uint32_t crc = ssmd_checkpoint_crc(0, data + at, &view);
        if (at > batch) {
            /* the CRC of all before it, then the checkpoint: over one copy, to stay with the public calls */
            ssmd_view head = view;
            uint8_t *copy = malloc(at - batch + view.length);
            assert(copy != NULL);
            memcpy(copy, data + batch, at - batch + view.length);
            head.body_at += (uint32_t)(at - batch);
            head.length += (uint32_t)(at - batch);
            crc = ssmd_checkpoint_crc(0, copy, &head);
            free(copy);
        }
        memcpy(data + at + view.body_at, &crc, sizeof crc);
        batch = at + view.length;
    }
}

static void walk_all(ssmd_walk *walk, const uint8_t *data, uint64_t n)
{
    int status = SSMD_OK;
    while (status == SSMD_OK) {
        uint64_t before = walk->at.offset;
        status = ssmd_walk_next(walk, data + before, n - before);
        assert(walk->at.offset >= before && walk->at.offset <= n);
        assert(walk->good.offset <= walk->at.offset);
    }
}

/* Whatever the damage, a search ends, never goes back, and what it finds can be walked. */
static void resync_all(const ssmd_walk *damaged, const uint8_t *data, uint64_t n)
{
    ssmd_walk walk = *damaged;
    while (walk.fault != SSMD_FAULT_NONE && !walk.final) {
        uint64_t from = walk.good.offset, place = from, records = walk.good.records;
        if (ssmd_walk_resync(&walk, data + from, n - from, from, &place) != SSMD_OK)
            return;
        uint64_t found = walk.good.offset;
        assert(found >= from && found < n && walk.good.records >= records);
        assert(ssmd_walk_next(&walk, data + found, n - found) == SSMD_OK && walk.good.offset > found);
        walk_all(&walk, data, n);
    }
}

static void tally_all(const uint8_t *data, uint64_t n)
{
    ssmd_tally *tally = ssmd_tally_open(true);
    ssmd_view events[2];
    ssmd_totals totals;
    int status = SSMD_MORE;
    for (uint64_t at = 0, used, count; status == SSMD_MORE; at += used) {
        status = ssmd_tally_add(tally, data + at, n - at, at, events, 2, &count, &used);
        assert(status == SSMD_OK || status == SSMD_MORE);
    }
    ssmd_tally_totals(tally, &totals);
    assert(totals.bytes == n);
    ssmd_tally_close(tally);
}

static void latest_all(const uint8_t *data, uint64_t n)
{
    ssmd_latest *latest = ssmd_latest_open(3);
    ssmd_view views[2];
    ssmd_last last[3];
    ssmd_latest_state state;
    int status = SSMD_MORE;
    for (uint64_t at = 0, used, count; status == SSMD_MORE; at += used) {
        status = ssmd_latest_add(latest, data + at, n - at, at, views, 2, &count, &used);
        assert(status == SSMD_OK || status == SSMD_MORE);
    }
    ssmd_latest_look(latest, &state);
    assert(state.markets <= 3 && state.changed == state.markets);
    assert(ssmd_latest_changed(latest, last, 3) == state.changed);
    for (uint64_t i = 0; i < state.changed; i++)
        assert(memchr(last[i].market, 0, last[i].market_bytes + 1u) != NULL);
    ssmd_latest_close(latest);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (size < 2)
        return 0;
    uint8_t form = input[0];
    uint64_t n;
    uint8_t *data = (form & EDITS ? template_edited : as_it_is)(input + 1, size - 1, &n);
    if (form & MEND_CRC)
        crcs_mend(data, n);

    ssmd_walk walk = {0};
    walk_all(&walk, data, n);
    if (form & SPLIT) {
        ssmd_walk pieces = {0};
        walk_all(&pieces, data, n * form / 256);
        walk_all(&pieces, data, n);
        assert(pieces.fault == walk.fault && pieces.good.offset == walk.good.offset);
    }
    uint64_t whole = walk.at.offset;
    resync_all(&walk, data, n);
    (void)ssmd_walk_end(&walk, n - whole, (form & SEALED) != 0);

    ssmd_view views[4];
    uint64_t count = 0, used = 0, at = 0;
    int status = SSMD_MORE;
    for (; status == SSMD_MORE; at += used) {
        status = ssmd_views_read(data + at, n - at, at, NULL, views, 4, &count, &used);
        for (uint64_t i = 0; i < count; i++)
            view_inside(&views[i], n - views[i].offset);
    }
    assert(at >= whole);
    tally_all(data, at);
    latest_all(data, at);
    free(data);
    return 0;
}
