/* tally.c - see tally.h. Three growing arrays (channels, holes, findings), two open-addressing tables over them
 * (connection + sid -> channel; channel + market -> book), and per book two sorted arrays of levels.
 *
 * When may a snapshot be compared with the replayed book? Only when every change in between is known:
 *
 *   - no hole and no Gap record on the sid since the book's last snapshot, and no break in the record numbers
 *     (each of them raises `epoch` of the channel, or of all channels);
 *   - for a snapshot that nobody asked for (requestId 0): no `ok` on the sid either. Markets can be deleted from a
 *     subscription and added again, and in between their deltas are not sent (`changes` of the channel);
 *   - a frame whose number did not rise is a repeat: what it says was applied already, and is not applied twice;
 *   - an unsolicited snapshot that is empty is no statement about the past: the exchange empties books of
 *     closing markets without deltas (seen on the wire). It is counted apart.
 */
#include "tally.h"

#include <stdlib.h>
#include <string.h>

#include "book_internal.h"
#include "load_internal.h"
#include "sequence.h"

enum { WHAT_CLOSED = 4, CONTROL_OK = 1, BOOK_DELTA = 1, SIDE_BID = 1, SIDE_ASK = 2 }; /* enumerants of the schema */

typedef struct book {
    uint32_t channel;
    uint32_t hash;
    char *market;
    uint32_t market_bytes;
    bool known; /* has a snapshot, and its connection lives */
    uint64_t epoch, changes;
    uint64_t suspect; /* number of the record since which it cannot be right; 0 = nothing is known against it */
    int64_t suspect_ns;
    uint32_t why;
    ssmd_side sides[2]; /* bids, asks */
} book;

typedef struct channel {
    ssmd_channel seen;
    uint64_t epoch;   /* +1 with everything that may have hidden a change */
    uint64_t changes; /* +1 with every change of the subscription */
    uint64_t before;  /* next number before a jump that nothing has confirmed yet (sequence.h), 0 = there was none */
} channel;

/* Table of indices into an array; 0 = free, else index + 1. */
typedef struct table {
    uint32_t *slots;
    uint64_t size; /* power of two */
    uint64_t used;
} table;

struct ssmd_tally {
    ssmd_totals totals;
    bool with_books;
    bool out_of_memory;
    uint64_t epoch; /* of the journal: breaks */
    channel *channels;
    uint64_t channel_capacity;
    table channel_table;
    uint32_t last_channel;
    ssmd_hole *holes;
    uint64_t hole_capacity;
    ssmd_finding *findings;
    uint64_t finding_capacity;
    book *books;
    uint64_t book_count, book_capacity;
    uint64_t suspects;
    table book_table;
};

/* ---- memory ------------------------------------------------------------------------------------- */

/* Room for one more item of `size` bytes; false when there is no memory. */
static bool array_grow(void **items, uint64_t count, uint64_t *capacity, size_t size)
{
    if (count < *capacity)
        return true;
    uint64_t more = *capacity == 0 ? 16 : *capacity * 2;
    void *moved = realloc(*items, more * size);
    if (moved == NULL)
        return false;
    *items = moved;
    *capacity = more;
    return true;
}

static bool table_double(table *t, uint32_t (*hash_of)(const ssmd_tally *, uint32_t), const ssmd_tally *tally)
{
    uint64_t size = t->size == 0 ? 64 : t->size * 2;
    uint32_t *slots = calloc(size, sizeof *slots);
    if (slots == NULL)
        return false;
    for (uint64_t i = 0; i < t->size; i++) {
        if (t->slots[i] == 0)
            continue;
        uint64_t at = hash_of(tally, t->slots[i] - 1) & (size - 1);
        while (slots[at] != 0)
            at = (at + 1) & (size - 1);
        slots[at] = t->slots[i];
    }
    free(t->slots);
    t->slots = slots;
    t->size = size;
    return true;
}

static uint32_t mix(uint64_t value)
{
    value *= 0x9E3779B97F4A7C15u;
    return (uint32_t)(value >> 32);
}

ssmd_tally *ssmd_tally_open(bool books)
{
    ssmd_tally *tally = calloc(1, sizeof *tally);
    if (tally != NULL)
        tally->with_books = books;
    return tally;
}

static void book_free(book *b)
{
    free(b->market);
    ssmd_side_free(&b->sides[0]);
    ssmd_side_free(&b->sides[1]);
}

void ssmd_tally_close(ssmd_tally *tally)
{
    if (tally == NULL)
        return;
    for (uint64_t i = 0; i < tally->book_count; i++)
        book_free(&tally->books[i]);
    free(tally->books);
    free(tally->book_table.slots);
    free(tally->channels);
    free(tally->channel_table.slots);
    free(tally->holes);
    free(tally->findings);
    free(tally);
}

/* ---- numbers ------------------------------------------------------------------------------------ */

static void finding_add(ssmd_tally *tally, const ssmd_view *view, uint32_t what, uint64_t expected)
{
    ssmd_totals *totals = &tally->totals;
    if (totals->findings == SSMD_FINDINGS_LIMIT)
        return;
    if (!array_grow((void **)&tally->findings, totals->findings, &tally->finding_capacity, sizeof *tally->findings)) {
        tally->out_of_memory = true;
        return;
    }
    tally->findings[totals->findings++] = (ssmd_finding){
        .offset = view->offset,
        .number = view->number,
        .expected = expected,
        .what = what,
        .connection = view->connection,
    };
}

static void number_follow(ssmd_tally *tally, const ssmd_view *view)
{
    ssmd_totals *totals = &tally->totals;
    if (totals->records == 0) {
        totals->first_number = view->number;
        totals->first_recv_ns = view->recv_ns;
    } else if (view->number != totals->last_number + 1) {
        finding_add(tally, view, SSMD_FINDING_NUMBER, totals->last_number + 1);
        totals->breaks++;
        tally->epoch++;
    }
    totals->records++;
    totals->last_number = view->number;
    totals->last_recv_ns = view->recv_ns;
}

/* ---- channels ----------------------------------------------------------------------------------- */

static uint32_t channel_hash(const ssmd_tally *tally, uint32_t index)
{
    const ssmd_channel *seen = &tally->channels[index].seen;
    return mix((uint64_t)seen->connection << 32 | seen->sid);
}

static bool channel_is(const ssmd_tally *tally, uint32_t index, const ssmd_view *view)
{
    const ssmd_channel *seen = &tally->channels[index].seen;
    return seen->connection == view->connection && seen->sid == view->sid;
}

/* The channel of a record, made if it is new; NULL when there is no memory. */
static channel *channel_of(ssmd_tally *tally, const ssmd_view *view)
{
    if (tally->totals.channels > 0 && channel_is(tally, tally->last_channel, view))
        return &tally->channels[tally->last_channel];
    table *t = &tally->channel_table;
    if (t->used * 2 >= t->size && !table_double(t, channel_hash, tally))
        return NULL;
    uint64_t at = mix((uint64_t)view->connection << 32 | view->sid) & (t->size - 1);
    while (t->slots[at] != 0 && !channel_is(tally, t->slots[at] - 1, view))
        at = (at + 1) & (t->size - 1);
    if (t->slots[at] == 0) {
        if (!array_grow((void **)&tally->channels, tally->totals.channels, &tally->channel_capacity,
                        sizeof *tally->channels))
            return NULL;
        tally->channels[tally->totals.channels++] =
            (channel){.seen = {.connection = view->connection, .sid = view->sid}};
        t->slots[at] = (uint32_t)tally->totals.channels;
        t->used++;
    }
    tally->last_channel = t->slots[at] - 1;
    return &tally->channels[tally->last_channel];
}

static void hole_add(ssmd_tally *tally, channel *in, const ssmd_view *view, uint64_t expected)
{
    in->epoch++;
    if (!array_grow((void **)&tally->holes, tally->totals.holes, &tally->hole_capacity, sizeof *tally->holes)) {
        tally->out_of_memory = true;
        return;
    }
    tally->holes[tally->totals.holes++] = (ssmd_hole){
        .connection = view->connection,
        .sid = view->sid,
        .from_seq = expected,
        .to_seq = view->seq - 1,
        .from_ns = in->seen.last_recv_ns,
        .to_ns = view->recv_ns,
        .number = view->number,
    };
}

/* A frame on a sid. False: its number did not rise, so it says again what was said before. */
static bool sequence_follow(ssmd_tally *tally, channel *in, const ssmd_view *view)
{
    ssmd_channel *seen = &in->seen;
    bool back = in->before != 0 && view->seq >= in->before && view->seq - in->before < SSMD_SEQUENCE_JUMP;
    uint64_t last = back ? in->before - 1 : seen->last_seq;
    bool rises = view->seq == 0 || seen->first_seq == 0 || view->seq > last;
    if (seen->frames == 0 || (seen->first_seq == 0 && view->seq != 0)) {
        seen->first_number = view->number;
        seen->first_recv_ns = view->recv_ns;
    }
    if (view->seq != 0) {
        if (seen->first_seq == 0)
            seen->first_seq = view->seq;
        else if (!rises)
            seen->repeats++;
        else if (view->seq != last + 1)
            hole_add(tally, in, view, last + 1);
        if (rises) {
            in->before = view->seq - last > SSMD_SEQUENCE_JUMP ? last + 1 : 0;
            seen->last_seq = view->seq;
        }
    }
    seen->frames++;
    seen->last_recv_ns = view->recv_ns;
    seen->kinds |= 1ull << (view->kind < SSMD_KIND_COUNT ? view->kind : SSMD_KIND_COUNT);
    return rises;
}

/* ---- books -------------------------------------------------------------------------------------- */

static uint32_t market_hash(uint32_t channel_index, const char *name, uint32_t bytes)
{
    uint64_t hash = channel_index + 1;
    for (; bytes >= 8; bytes -= 8, name += 8)
        hash = (hash ^ load_64((const uint8_t *)name)) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
    for (; bytes > 0; bytes--, name++)
        hash = (hash ^ (uint8_t)*name) * 0x9E3779B97F4A7C15u;
    return mix(hash ^ hash >> 32);
}

static uint32_t book_hash(const ssmd_tally *tally, uint32_t index)
{
    return tally->books[index].hash;
}

static book *book_add(ssmd_tally *tally, uint32_t channel_index, uint32_t hash, const char *name, uint32_t bytes)
{
    if (!array_grow((void **)&tally->books, tally->book_count, &tally->book_capacity, sizeof *tally->books))
        return NULL;
    char *market = malloc(bytes + 1u);
    if (market == NULL)
        return NULL;
    memcpy(market, name, bytes);
    book *made = &tally->books[tally->book_count++];
    *made = (book){.channel = channel_index, .hash = hash, .market = market, .market_bytes = bytes};
    return made;
}

static book *book_of(ssmd_tally *tally, const uint8_t *at, const ssmd_view *view)
{
    const char *name = (const char *)at + view->market_at;
    table *t = &tally->book_table;
    if (t->used * 2 >= t->size && !table_double(t, book_hash, tally))
        return NULL;
    uint32_t hash = market_hash(tally->last_channel, name, view->market_bytes);
    uint64_t slot = hash & (t->size - 1);
    for (; t->slots[slot] != 0; slot = (slot + 1) & (t->size - 1)) {
        book *b = &tally->books[t->slots[slot] - 1];
        if (b->hash == hash && b->channel == tally->last_channel && b->market_bytes == view->market_bytes &&
            memcmp(b->market, name, view->market_bytes) == 0)
            return b;
    }
    book *made = book_add(tally, tally->last_channel, hash, name, view->market_bytes);
    if (made != NULL) {
        t->slots[slot] = (uint32_t)tally->book_count;
        t->used++;
    }
    return made;
}

static bool book_crossed(const book *b)
{
    const ssmd_side *bids = &b->sides[0], *asks = &b->sides[1];
    return bids->count > 0 && asks->count > 0 && bids->levels[bids->count - 1].price_e4 >= asks->levels[0].price_e4;
}

static bool book_empty(const book *b)
{
    return b->sides[0].count == 0 && b->sides[1].count == 0;
}

static void book_doubt(ssmd_tally *tally, book *b, const ssmd_view *view, uint32_t why)
{
    if (b->suspect != 0)
        return;
    b->suspect = view->number;
    b->suspect_ns = view->recv_ns;
    b->why = why;
    tally->suspects++;
}

static void book_trust(ssmd_tally *tally, book *b)
{
    tally->suspects -= b->suspect != 0;
    b->suspect = 0;
}

static void book_snapshot(ssmd_tally *tally, const channel *in, book *b, const uint8_t *at, const ssmd_view *view)
{
    book fresh = {0};
    if (!ssmd_side_load(&fresh.sides[0], ssmd_ladder_read(at, view, 1)) ||
        !ssmd_side_load(&fresh.sides[1], ssmd_ladder_read(at, view, 2)))
        tally->out_of_memory = true;
    bool asked = load_64(at + view->body_at + 24) != 0;
    bool sure = b->known && b->epoch == in->epoch + tally->epoch && (asked || b->changes == in->changes);
    bool equal = ssmd_side_equal(&b->sides[0], &fresh.sides[0]) && ssmd_side_equal(&b->sides[1], &fresh.sides[1]);
    if (sure && !equal && !asked && book_empty(&fresh)) {
        tally->totals.books_emptied++;
    } else if (sure) {
        tally->totals.books_checked++;
        if (!equal) {
            tally->totals.books_mismatched++;
            finding_add(tally, view, SSMD_FINDING_BOOK, 0);
        }
    }
    for (int i = 0; i < 2; i++) {
        ssmd_side_free(&b->sides[i]);
        b->sides[i] = fresh.sides[i];
    }
    if (!b->known)
        tally->totals.books++;
    b->known = true;
    book_trust(tally, b);
    b->epoch = in->epoch + tally->epoch;
    b->changes = in->changes;
    tally->totals.books_crossed += book_crossed(b);
}

static void book_delta(ssmd_tally *tally, const channel *in, book *b, const uint8_t *at, const ssmd_view *view)
{
    const uint8_t *body = at + view->body_at;
    uint16_t which = load_16(body + 2);
    if (!b->known) {
        tally->totals.deltas_orphaned++;
        if (in->seen.first_seq == 1)
            book_doubt(tally, b, view, SSMD_FINDING_ORPHAN);
        return;
    }
    if (which != SIDE_BID && which != SIDE_ASK)
        return;
    bool negative;
    if (!ssmd_side_change(&b->sides[which == SIDE_ASK], load_i32(body + 8), (int64_t)load_64(body + 16), &negative))
        tally->out_of_memory = true;
    if (negative) {
        tally->totals.levels_negative++;
        finding_add(tally, view, SSMD_FINDING_NEGATIVE, 0);
        book_doubt(tally, b, view, SSMD_FINDING_NEGATIVE);
        b->epoch = UINT64_MAX; /* not compared with the next snapshot: it is known to be wrong */
    }
    tally->totals.books_crossed += book_crossed(b);
}

static void book_follow(ssmd_tally *tally, const channel *in, const uint8_t *at, const ssmd_view *view)
{
    book *b = book_of(tally, at, view);
    if (b == NULL)
        tally->out_of_memory = true;
    else if (view->sub == BOOK_DELTA)
        book_delta(tally, in, b, at, view);
    else
        book_snapshot(tally, in, b, at, view);
}

/* A closed connection's books are history: they leave the array and the table, so that a tally may run for months. */
static void books_forget(ssmd_tally *tally, uint32_t connection)
{
    uint64_t kept = 0;
    for (uint64_t i = 0; i < tally->book_count; i++) {
        book *b = &tally->books[i];
        if (tally->channels[b->channel].seen.connection != connection) {
            tally->books[kept++] = *b;
            continue;
        }
        book_trust(tally, b);
        book_free(b);
    }
    if (kept == tally->book_count)
        return;
    table *t = &tally->book_table;
    tally->book_count = t->used = kept;
    memset(t->slots, 0, t->size * sizeof *t->slots);
    for (uint32_t i = 0; i < kept; i++) {
        uint64_t at = tally->books[i].hash & (t->size - 1);
        while (t->slots[at] != 0)
            at = (at + 1) & (t->size - 1);
        t->slots[at] = i + 1;
    }
}

/* ---- records ------------------------------------------------------------------------------------ */

static bool is_event(const ssmd_view *view)
{
    return view->kind == SSMD_KIND_CONTROL || view->kind == SSMD_KIND_GAP || view->kind == SSMD_KIND_CONNECTION;
}

static bool is_ours(const ssmd_view *view)
{
    return view->kind == SSMD_KIND_GAP || view->kind == SSMD_KIND_CONNECTION || view->kind == SSMD_KIND_CLOCK;
}

/* What the recorder itself wrote: it may say that changes of books were missed. */
static void own_follow(ssmd_tally *tally, const ssmd_view *view)
{
    if (view->kind == SSMD_KIND_GAP && view->sid != 0) {
        channel *in = channel_of(tally, view);
        if (in == NULL)
            tally->out_of_memory = true;
        else
            in->epoch++;
    } else if (view->kind == SSMD_KIND_GAP) {
        tally->epoch++;
    } else if (view->kind == SSMD_KIND_CONNECTION && view->sub == WHAT_CLOSED) {
        books_forget(tally, view->connection);
    }
}

static void frame_follow(ssmd_tally *tally, const uint8_t *at, const ssmd_view *view)
{
    if (view->sid == 0)
        return;
    channel *in = channel_of(tally, view);
    if (in == NULL) {
        tally->out_of_memory = true;
        return;
    }
    bool rises = sequence_follow(tally, in, view);
    if (view->kind == SSMD_KIND_CONTROL && view->sub == CONTROL_OK)
        in->changes++;
    if (rises && tally->with_books && view->kind == SSMD_KIND_BOOK && view->market_at != 0)
        book_follow(tally, in, at, view);
}

static unsigned kind_index(const ssmd_view *view)
{
    if (view->kind >= SSMD_KIND_COUNT)
        return SSMD_TALLY_LATER;
    return view->kind == SSMD_KIND_BOOK && view->sub == BOOK_DELTA ? SSMD_TALLY_DELTA : view->kind;
}

static void record_follow(ssmd_tally *tally, const uint8_t *at, const ssmd_view *view)
{
    ssmd_totals *totals = &tally->totals;
    totals->bytes += view->length;
    totals->by_kind[kind_index(view)]++;
    if (view->kind == SSMD_KIND_CHECKPOINT)
        return;
    number_follow(tally, view);
    if (view->frame_at != 0) {
        totals->frames++;
        totals->frame_bytes += view->frame_bytes;
    }
    if (is_ours(view))
        own_follow(tally, view);
    else
        frame_follow(tally, at, view);
}

int ssmd_tally_add(ssmd_tally *tally, const uint8_t *data, uint64_t n, uint64_t offset, ssmd_view *events,
                   uint64_t capacity, uint64_t *count, uint64_t *used)
{
    *count = *used = 0;
    while (*used < n) {
        if (*count == capacity)
            return SSMD_MORE;
        ssmd_view view;
        if (ssmd_view_read(data + *used, n - *used, &view) != SSMD_FAULT_NONE)
            return SSMD_DAMAGED;
        view.offset = offset + *used;
        record_follow(tally, data + *used, &view);
        if (tally->out_of_memory)
            return SSMD_NO_MEMORY;
        if (is_event(&view))
            events[(*count)++] = view;
        *used += view.length;
    }
    return SSMD_OK;
}

/* ---- results ------------------------------------------------------------------------------------ */

void ssmd_tally_totals(const ssmd_tally *tally, ssmd_totals *totals)
{
    *totals = tally->totals;
}

static uint64_t window(uint64_t first, uint64_t total, uint64_t capacity)
{
    uint64_t left = first < total ? total - first : 0;
    return left < capacity ? left : capacity;
}

uint64_t ssmd_tally_channels(const ssmd_tally *tally, uint64_t first, ssmd_channel *out, uint64_t capacity)
{
    uint64_t n = window(first, tally->totals.channels, capacity);
    for (uint64_t i = 0; i < n; i++)
        out[i] = tally->channels[first + i].seen;
    return n;
}

uint64_t ssmd_tally_holes(const ssmd_tally *tally, uint64_t first, ssmd_hole *out, uint64_t capacity)
{
    uint64_t n = window(first, tally->totals.holes, capacity);
    if (n > 0)
        memcpy(out, tally->holes + first, n * sizeof *out);
    return n;
}

uint64_t ssmd_tally_findings(const ssmd_tally *tally, uint64_t first, ssmd_finding *out, uint64_t capacity)
{
    uint64_t n = window(first, tally->totals.findings, capacity);
    if (n > 0)
        memcpy(out, tally->findings + first, n * sizeof *out);
    return n;
}

uint64_t ssmd_tally_suspects(const ssmd_tally *tally, ssmd_suspect *out, uint64_t capacity)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < tally->book_count && n < tally->suspects && n < capacity; i++) {
        const book *b = &tally->books[i];
        if (b->suspect == 0)
            continue;
        const ssmd_channel *of = &tally->channels[b->channel].seen;
        out[n++] = (ssmd_suspect){
            .number = b->suspect,
            .recv_ns = b->suspect_ns,
            .market = b->market,
            .market_bytes = b->market_bytes,
            .connection = of->connection,
            .sid = of->sid,
            .why = b->why,
        };
    }
    return tally->suspects;
}
