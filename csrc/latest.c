/* latest.c - see latest.h.
 *
 * A market is one block of memory in up to four places at once:
 *
 *   table     open addressing by name (linear probing; taking out moves those behind up, so nothing is ever marked)
 *   AGE       list of all, the one that changed longest ago first: whom to forget
 *   CHANGED   list of those that changed, in the order in which they first did
 *   BOOKS     list of the channel (sid of a connection) that keeps its book synced: whom a gap concerns
 *
 * The lists run through the blocks themselves, so that every move is a few stores and none can fail.
 */
#include "latest.h"

#include <stdlib.h>
#include <string.h>

#include "book_internal.h"
#include "load_internal.h"
#include "sequence.h"

/* Enumerants of the schema. */
enum { BOOK_DELTA = 1, SIDE_BID = 1, SIDE_ASK = 2 };
enum { CONTROL_OK = 1, CONTROL_UNSUBSCRIBED = 2 };
enum { WHAT_STARTED = 0, WHAT_CLOSED = 4, WHAT_STOPPED = 5 };
enum { GAP_BOOK_STATE = 8, GAP_REFUSED = 10 };
enum { CHANGE_CREATED = 1, CHANGE_ACTIVATED = 2, CHANGE_DEACTIVATED = 3, CHANGE_DETERMINED = 5, CHANGE_SETTLED = 6 };

enum { CHANNELS_LIMIT = 4096 }; /* far more sids than any plan has; frames of further ones have no order and no books */

enum { AGE = 0, CHANGED = 1, BOOKS = 2, LISTS = 3 };

typedef struct market market;

typedef struct link {
    market *before, *after;
} link;

typedef struct list {
    market *first, *last;
} list;

typedef struct channel {
    uint32_t connection, sid;
    uint64_t seq;
    uint64_t before; /* next number before a jump that nothing has confirmed yet (sequence.h), 0 = there was none */
    list books;
} channel;

struct market {
    ssmd_last seen; /* quote, `was` and levels only where the book is not synced */
    ssmd_side sides[2];
    channel *keeper; /* keeps the book synced; NULL exactly when it is not */
    link links[LISTS];
    bool changed;
    bool over; /* determined or settled */
    int64_t done_ns;
    uint64_t hash;
    char *name;
    char *trade_id;
    uint32_t trade_id_room;
};

struct ssmd_latest {
    uint64_t number;
    int64_t recv_ns, waiting_ns;
    uint64_t max_markets, count, changed_count, serials;
    market **table;
    uint64_t table_size; /* power of two, at least twice `count` */
    list ages, changes;
    channel **channels;
    uint64_t channel_count, channel_room;
    channel *last_channel;
    bool out_of_memory;
};

/* ---- lists -------------------------------------------------------------------------------------- */

static void list_append(list *l, market *m, int which)
{
    m->links[which] = (link){.before = l->last};
    *(l->last != NULL ? &l->last->links[which].after : &l->first) = m;
    l->last = m;
}

static void list_prepend(list *l, market *m, int which)
{
    m->links[which] = (link){.after = l->first};
    *(l->first != NULL ? &l->first->links[which].before : &l->last) = m;
    l->first = m;
}

static void list_remove(list *l, market *m, int which)
{
    link at = m->links[which];
    *(at.before != NULL ? &at.before->links[which].after : &l->first) = at.after;
    *(at.after != NULL ? &at.after->links[which].before : &l->last) = at.before;
}

static void market_mark(ssmd_latest *latest, market *m)
{
    if (m->changed)
        return;
    m->changed = true;
    latest->changed_count++;
    list_append(&latest->changes, m, CHANGED);
    if (latest->waiting_ns == 0)
        latest->waiting_ns = latest->recv_ns;
}

static void market_unmark(ssmd_latest *latest, market *m)
{
    if (!m->changed)
        return;
    m->changed = false;
    list_remove(&latest->changes, m, CHANGED);
    if (--latest->changed_count == 0)
        latest->waiting_ns = 0;
}

/* ---- table -------------------------------------------------------------------------------------- */

static uint64_t name_hash(const char *name, uint32_t bytes)
{
    uint64_t hash = bytes;
    for (; bytes >= 8; bytes -= 8, name += 8)
        hash = (hash ^ load_64((const uint8_t *)name)) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
    for (; bytes > 0; bytes--, name++)
        hash = (hash ^ (uint8_t)*name) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

static uint64_t table_place(const ssmd_latest *latest, uint64_t hash, const char *name, uint32_t bytes)
{
    uint64_t mask = latest->table_size - 1, at = hash & mask;
    for (market *m; (m = latest->table[at]) != NULL; at = (at + 1) & mask)
        if (m->hash == hash && m->seen.market_bytes == bytes && memcmp(m->name, name, bytes) == 0)
            break;
    return at;
}

static market *market_find(const ssmd_latest *latest, const char *name, uint32_t bytes)
{
    return latest->count == 0 ? NULL : latest->table[table_place(latest, name_hash(name, bytes), name, bytes)];
}

static bool table_reserve(ssmd_latest *latest)
{
    if (latest->count * 2 < latest->table_size)
        return true;
    uint64_t size = latest->table_size == 0 ? 64 : latest->table_size * 2;
    market **table = calloc(size, sizeof(market *));
    if (table == NULL)
        return false;
    free(latest->table);
    latest->table = table;
    latest->table_size = size;
    for (market *m = latest->ages.first; m != NULL; m = m->links[AGE].after) {
        uint64_t at = m->hash & (size - 1);
        while (table[at] != NULL)
            at = (at + 1) & (size - 1);
        table[at] = m;
    }
    return true;
}

/* Takes a market out and closes the row behind it. */
static void table_remove(ssmd_latest *latest, const market *gone)
{
    uint64_t mask = latest->table_size - 1;
    uint64_t hole = table_place(latest, gone->hash, gone->name, gone->seen.market_bytes);
    latest->table[hole] = NULL;
    for (uint64_t at = (hole + 1) & mask; latest->table[at] != NULL; at = (at + 1) & mask) {
        uint64_t home = latest->table[at]->hash & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) { /* the hole lies between its home and it */
            latest->table[hole] = latest->table[at];
            latest->table[at] = NULL;
            hole = at;
        }
    }
}

/* ---- books -------------------------------------------------------------------------------------- */

static void quote_fill(ssmd_last *out, const ssmd_side sides[2])
{
    const ssmd_side *bids = &sides[0], *asks = &sides[1];
    ssmd_level none = {0};
    ssmd_level bid = bids->count > 0 ? bids->levels[bids->count - 1] : none;
    ssmd_level ask = asks->count > 0 ? asks->levels[0] : none;
    out->bid_e4 = bid.price_e4;
    out->bid_size_e2 = bid.count_e2;
    out->ask_e4 = ask.price_e4;
    out->ask_size_e2 = ask.count_e2;
    out->bid_levels = bids->count;
    out->ask_levels = asks->count;
}

static void quote_copy(ssmd_last *out, const ssmd_last *from)
{
    out->bid_e4 = from->bid_e4;
    out->bid_size_e2 = from->bid_size_e2;
    out->ask_e4 = from->ask_e4;
    out->ask_size_e2 = from->ask_size_e2;
    out->bid_levels = from->bid_levels;
    out->ask_levels = from->ask_levels;
}

/* From now on the book is not synced; it keeps what its quote was, unless the book itself was wrong. */
static void book_end(market *m, uint32_t sync)
{
    if (m->keeper != NULL) {
        ssmd_side nothing[2] = {{0}, {0}};
        bool believed = sync != SSMD_SYNC_BELOW_ZERO;
        quote_fill(&m->seen, believed ? m->sides : nothing);
        m->seen.was = believed;
        list_remove(&m->keeper->books, m, BOOKS);
        m->keeper = NULL;
        ssmd_side_free(&m->sides[0]);
        ssmd_side_free(&m->sides[1]);
    }
    m->seen.sync = (uint16_t)sync;
}

static void channel_doubt(ssmd_latest *latest, channel *in, uint32_t sync)
{
    for (market *m; (m = in->books.first) != NULL;) {
        book_end(m, sync);
        market_mark(latest, m);
    }
}

static bool book_snapshot(channel *in, market *m, const uint8_t *at, const ssmd_view *view)
{
    if (m->keeper != in) {
        if (m->keeper != NULL)
            list_remove(&m->keeper->books, m, BOOKS);
        m->keeper = in;
        list_append(&in->books, m, BOOKS);
    }
    m->seen.sync = SSMD_SYNC_SYNCED;
    m->seen.was = 0;
    return ssmd_side_load(&m->sides[0], ssmd_ladder_read(at, view, 1)) &&
           ssmd_side_load(&m->sides[1], ssmd_ladder_read(at, view, 2));
}

static bool book_delta(const channel *in, market *m, const uint8_t *body)
{
    uint16_t side = load_16(body + 2);
    bool negative = false;
    if (m->keeper == NULL) {
        if (m->seen.sync == SSMD_SYNC_NEVER)
            m->seen.sync = SSMD_SYNC_NO_SNAPSHOT;
    } else if (m->keeper == in && (side == SIDE_BID || side == SIDE_ASK)) {
        if (!ssmd_side_change(&m->sides[side == SIDE_ASK], (int32_t)load_32(body + 8), load_i64(body + 16), &negative))
            return false;
        if (negative)
            book_end(m, SSMD_SYNC_BELOW_ZERO);
    }
    return true;
}

static bool book_follow(channel *in, market *m, const uint8_t *at, const ssmd_view *view)
{
    bool delta = view->sub == BOOK_DELTA;
    if (delta && m->keeper != NULL && m->keeper != in)
        return true; /* another subscription of the same book: the newer one keeps it */
    m->seen.book_number = view->number;
    m->seen.book_recv_ns = view->recv_ns;
    m->seen.book_exchange_ns = view->exchange_ns;
    return delta ? book_delta(in, m, at + view->body_at) : book_snapshot(in, m, at, view);
}

/* ---- markets ------------------------------------------------------------------------------------ */

static void market_forget(ssmd_latest *latest, market *m)
{
    book_end(m, SSMD_SYNC_NEVER);
    market_unmark(latest, m);
    list_remove(&latest->ages, m, AGE);
    table_remove(latest, m);
    latest->count--;
    free(m->name);
    free(m->trade_id);
    free(m);
}

/* A market of this name, which there is not yet; NULL: no memory. */
static market *market_make(ssmd_latest *latest, const char *name, uint32_t bytes)
{
    market *made = calloc(1, sizeof *made);
    char *copy = malloc(bytes + 1u);
    if (made == NULL || copy == NULL || !table_reserve(latest)) {
        free(made);
        free(copy);
        return NULL;
    }
    memcpy(copy, name, bytes);
    copy[bytes] = 0;
    made->name = copy;
    made->hash = name_hash(name, bytes);
    made->seen.serial = ++latest->serials;
    made->seen.market_bytes = bytes;
    latest->table[table_place(latest, made->hash, name, bytes)] = made;
    latest->count++;
    return made;
}

/* The market of a record, as the one that changed last. */
static market *market_of(ssmd_latest *latest, const uint8_t *at, const ssmd_view *view)
{
    const char *name = (const char *)at + view->market_at;
    market *m = market_find(latest, name, view->market_bytes);
    if (m != NULL) {
        if (latest->ages.last != m) {
            list_remove(&latest->ages, m, AGE);
            list_append(&latest->ages, m, AGE);
        }
        return m;
    }
    if (latest->count >= latest->max_markets)
        market_forget(latest, latest->ages.first);
    m = market_make(latest, name, view->market_bytes);
    if (m != NULL)
        list_append(&latest->ages, m, AGE);
    return m;
}

/* The text that pointer `index` of the body leads to, NULL if there is none. */
static const char *text_read(const uint8_t *at, const ssmd_view *view, unsigned index, uint32_t *bytes)
{
    const uint8_t *place = at + view->pointers_at + 8 * index;
    uint64_t pointer = load_64(place);
    if (pointer == 0)
        return NULL;
    *bytes = (uint32_t)(pointer >> 35) - 1;
    return (const char *)place + 8 + 8 * (int64_t)((int32_t)(uint32_t)pointer >> 2);
}

static bool trade_follow(market *m, const uint8_t *at, const ssmd_view *view)
{
    const uint8_t *body = at + view->body_at;
    ssmd_last *seen = &m->seen;
    seen->trade_number = view->number;
    seen->trade_recv_ns = view->recv_ns;
    seen->trade_exchange_ns = view->exchange_ns;
    seen->trade_price_e4 = (int32_t)load_32(body);
    seen->trade_side = load_16(body + 4);
    seen->trade_block = body[6] & 1;
    seen->trade_count_e2 = load_i64(body + 8);
    uint32_t bytes = 0;
    const char *id = text_read(at, view, 1, &bytes);
    seen->trade_id_bytes = bytes;
    seen->trade_id = NULL;
    if (id == NULL)
        return true;
    if (m->trade_id == NULL || bytes > m->trade_id_room) {
        char *moved = realloc(m->trade_id, bytes + 1u);
        if (moved == NULL)
            return false;
        m->trade_id = moved;
        m->trade_id_room = bytes;
    }
    memcpy(m->trade_id, id, bytes);
    seen->trade_id = m->trade_id;
    return true;
}

static void ticker_follow(market *m, const uint8_t *at, const ssmd_view *view)
{
    const uint8_t *body = at + view->body_at;
    ssmd_last *seen = &m->seen;
    seen->ticker_number = view->number;
    seen->ticker_recv_ns = view->recv_ns;
    seen->ticker_exchange_ns = view->exchange_ns;
    seen->ticker_present = load_32(body);
    for (unsigned i = 0; i < 3; i++)
        seen->ticker_prices[i] = (int32_t)load_32(body + 4 + 4 * i);
    for (unsigned i = 0; i < 7; i++)
        seen->ticker_wide[i] = load_i64(body + 16 + 8 * i);
}

static void status_follow(market *m, const ssmd_view *view)
{
    if (view->sub == CHANGE_DETERMINED || view->sub == CHANGE_SETTLED)
        m->over = true;
    else if (view->sub == CHANGE_CREATED || view->sub == CHANGE_ACTIVATED || view->sub == CHANGE_DEACTIVATED)
        m->over = false;
}

/* ---- channels ----------------------------------------------------------------------------------- */

/* Few live at a time, and records come in runs of one: a row and the last one found are enough. */
static channel *channel_find(ssmd_latest *latest, uint32_t connection, uint32_t sid)
{
    channel *last = latest->last_channel;
    if (last != NULL && last->connection == connection && last->sid == sid)
        return last;
    for (uint64_t i = latest->channel_count; i-- > 0;)
        if (latest->channels[i]->connection == connection && latest->channels[i]->sid == sid)
            return latest->last_channel = latest->channels[i];
    return NULL;
}

/* NULL: there are too many, or no memory. */
static channel *channel_of(ssmd_latest *latest, uint32_t connection, uint32_t sid)
{
    channel *found = channel_find(latest, connection, sid);
    if (found != NULL || latest->channel_count == CHANNELS_LIMIT)
        return found;
    if (latest->channel_count == latest->channel_room) {
        uint64_t room = latest->channel_room == 0 ? 16 : latest->channel_room * 2;
        channel **moved = realloc(latest->channels, room * sizeof(channel *));
        latest->out_of_memory = latest->out_of_memory || moved == NULL;
        if (moved == NULL)
            return NULL;
        latest->channels = moved;
        latest->channel_room = room;
    }
    channel *made = calloc(1, sizeof *made);
    latest->out_of_memory = latest->out_of_memory || made == NULL;
    if (made == NULL)
        return NULL;
    made->connection = connection;
    made->sid = sid;
    latest->channels[latest->channel_count++] = made;
    return latest->last_channel = made;
}

/* The channels of a connection and sid, 0 = any, may have missed something. `gone`: nothing comes on them any more. */
static void channels_doubt(ssmd_latest *latest, uint32_t connection, uint32_t sid, uint32_t sync, bool gone)
{
    uint64_t kept = 0;
    for (uint64_t i = 0; i < latest->channel_count; i++) {
        channel *in = latest->channels[i];
        bool concerned = (connection == 0 || in->connection == connection) && (sid == 0 || in->sid == sid);
        if (concerned)
            channel_doubt(latest, in, sync);
        if (concerned && gone)
            free(in);
        else
            latest->channels[kept++] = in;
    }
    if (kept != latest->channel_count)
        latest->last_channel = NULL;
    latest->channel_count = kept;
}

/* False: the frame's number did not rise, so it says again what was said before. */
static bool sequence_follow(ssmd_latest *latest, channel *in, const ssmd_view *view)
{
    if (view->seq == 0)
        return true;
    bool back = in->before != 0 && view->seq >= in->before && view->seq - in->before < SSMD_SEQUENCE_JUMP;
    uint64_t last = back ? in->before - 1 : in->seq;
    if (view->seq <= last)
        return false;
    if (in->seq != 0 && view->seq != last + 1)
        channel_doubt(latest, in, SSMD_SYNC_MISSED);
    in->before = in->seq != 0 && view->seq - last > SSMD_SEQUENCE_JUMP ? last + 1 : 0;
    in->seq = view->seq;
    return true;
}

/* ---- records ------------------------------------------------------------------------------------ */

/* What the recorder itself wrote. A refused subscription was never seen, and a book in a bad state is one market's
 * matter, which is seen here anyway. */
static void own_follow(ssmd_latest *latest, const ssmd_view *view)
{
    if (view->kind == SSMD_KIND_GAP) {
        if (view->sub != GAP_REFUSED && view->sub != GAP_BOOK_STATE)
            channels_doubt(latest, view->connection, view->sid, SSMD_SYNC_MISSED, false);
    } else if (view->kind == SSMD_KIND_CONNECTION) {
        if (view->sub == WHAT_CLOSED)
            channels_doubt(latest, view->connection, 0, SSMD_SYNC_CLOSED, true);
        else if (view->sub == WHAT_STARTED || view->sub == WHAT_STOPPED)
            channels_doubt(latest, 0, 0, view->sub == WHAT_STARTED ? SSMD_SYNC_STARTED : SSMD_SYNC_STOPPED, true);
    }
}

/* True: the caller has to look at this reply before anything else. */
static bool control_follow(ssmd_latest *latest, const channel *in, const ssmd_view *view)
{
    if (in == NULL || in->books.first == NULL)
        return false;
    if (view->sub == CONTROL_UNSUBSCRIBED)
        channels_doubt(latest, view->connection, view->sid, SSMD_SYNC_ENDED, true);
    return view->sub == CONTROL_OK && view->frame_at != 0;
}

static bool is_of_market(const ssmd_view *view)
{
    return view->market_at != 0 && (view->kind == SSMD_KIND_TRADE || view->kind == SSMD_KIND_TICKER ||
                                    view->kind == SSMD_KIND_BOOK || view->kind == SSMD_KIND_STATUS);
}

static void market_follow(ssmd_latest *latest, channel *in, const uint8_t *at, const ssmd_view *view)
{
    market *m = market_of(latest, at, view);
    bool enough = m != NULL;
    if (enough) {
        m->seen.number = view->number;
        m->seen.recv_ns = view->recv_ns;
        market_mark(latest, m);
        if (view->kind == SSMD_KIND_TRADE)
            enough = trade_follow(m, at, view);
        else if (view->kind == SSMD_KIND_TICKER)
            ticker_follow(m, at, view);
        else if (view->kind == SSMD_KIND_STATUS)
            status_follow(m, view);
        else if (in != NULL)
            enough = book_follow(in, m, at, view);
    }
    latest->out_of_memory = latest->out_of_memory || !enough;
}

enum { NOTHING, HAND_OUT, HAND_OUT_AND_STOP };

static int record_follow(ssmd_latest *latest, const uint8_t *at, const ssmd_view *view)
{
    if (view->kind == SSMD_KIND_CHECKPOINT)
        return NOTHING;
    latest->recv_ns = view->recv_ns;
    if (latest->number != 0 && view->number != latest->number + 1)
        channels_doubt(latest, 0, 0, SSMD_SYNC_BREAK, false);
    latest->number = view->number;
    if (view->kind == SSMD_KIND_GAP || view->kind == SSMD_KIND_CONNECTION || view->kind == SSMD_KIND_CLOCK) {
        own_follow(latest, view);
        return NOTHING;
    }
    channel *in = NULL;
    if (view->sid != 0) {
        in = channel_of(latest, view->connection, view->sid);
        if (in != NULL && !sequence_follow(latest, in, view))
            return NOTHING;
    }
    if (view->kind == SSMD_KIND_CONTROL)
        return control_follow(latest, in, view) ? HAND_OUT_AND_STOP : NOTHING;
    if (!is_of_market(view))
        return NOTHING;
    market_follow(latest, in, at, view);
    return view->kind == SSMD_KIND_STATUS ? HAND_OUT : NOTHING;
}

int ssmd_latest_add(ssmd_latest *latest, const uint8_t *data, uint64_t n, uint64_t offset, ssmd_view *views,
                    uint64_t capacity, uint64_t *count, uint64_t *used)
{
    *count = *used = 0;
    while (*used < n) {
        ssmd_view view;
        if (*count == capacity)
            return SSMD_MORE;
        if (ssmd_view_read(data + *used, n - *used, &view) != SSMD_FAULT_NONE)
            return SSMD_DAMAGED;
        view.offset = offset + *used;
        int what = record_follow(latest, data + *used, &view);
        if (latest->out_of_memory)
            return SSMD_NO_MEMORY;
        *used += view.length;
        if (what != NOTHING)
            views[(*count)++] = view;
        if (what == HAND_OUT_AND_STOP && *used < n)
            return SSMD_MORE;
    }
    return SSMD_OK;
}

/* ---- what it is asked for ----------------------------------------------------------------------- */

ssmd_latest *ssmd_latest_open(uint64_t max_markets)
{
    ssmd_latest *latest = calloc(1, sizeof *latest);
    if (latest != NULL)
        latest->max_markets = max_markets > 0 ? max_markets : 1;
    return latest;
}

void ssmd_latest_close(ssmd_latest *latest)
{
    if (latest == NULL)
        return;
    while (latest->ages.first != NULL)
        market_forget(latest, latest->ages.first);
    for (uint64_t i = 0; i < latest->channel_count; i++)
        free(latest->channels[i]);
    free(latest->channels);
    free(latest->table);
    free(latest);
}

void ssmd_latest_doubt(ssmd_latest *latest, uint32_t sync)
{
    channels_doubt(latest, 0, 0, sync, false);
}

static ssmd_last market_last(const market *m)
{
    ssmd_last last = m->seen;
    last.market = m->name;
    if (m->keeper != NULL)
        quote_fill(&last, m->sides);
    return last;
}

uint64_t ssmd_latest_books(const ssmd_latest *latest, uint32_t connection, uint32_t sid, ssmd_last *out,
                           uint64_t capacity)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < latest->channel_count; i++) {
        const channel *in = latest->channels[i];
        if (in->connection != connection || in->sid != sid)
            continue;
        for (const market *m = in->books.first; m != NULL; m = m->links[BOOKS].after, n++)
            if (n < capacity)
                out[n] = market_last(m);
    }
    return n;
}

void ssmd_latest_unsync(ssmd_latest *latest, const char *name, uint32_t market_bytes, uint32_t sync)
{
    market *m = market_find(latest, name, market_bytes);
    if (m == NULL || m->keeper == NULL)
        return;
    book_end(m, sync);
    market_mark(latest, m);
}

int ssmd_latest_carry(ssmd_latest *latest, const ssmd_last *value)
{
    market *m = market_find(latest, value->market, value->market_bytes);
    if (m == NULL) {
        if (latest->count >= latest->max_markets)
            return SSMD_FULL;
        m = market_make(latest, value->market, value->market_bytes);
        if (m == NULL)
            return SSMD_NO_MEMORY;
        list_prepend(&latest->ages, m, AGE);
        m->seen.number = value->number;
        m->seen.recv_ns = value->recv_ns;
    }
    if (m->seen.sync == SSMD_SYNC_NEVER && value->sync > SSMD_SYNC_SYNCED) {
        ssmd_last *seen = &m->seen;
        seen->sync = value->sync;
        seen->was = value->was;
        seen->book_number = value->book_number;
        seen->book_recv_ns = value->book_recv_ns;
        seen->book_exchange_ns = value->book_exchange_ns;
        if (value->was)
            quote_copy(seen, value);
    }
    market_mark(latest, m);
    return SSMD_OK;
}

uint64_t ssmd_latest_changed(const ssmd_latest *latest, ssmd_last *out, uint64_t capacity)
{
    uint64_t n = 0;
    for (const market *m = latest->changes.first; m != NULL && n < capacity; m = m->links[CHANGED].after)
        out[n++] = market_last(m);
    return n;
}

void ssmd_latest_done(ssmd_latest *latest, uint64_t count, int64_t now_ns)
{
    for (; count > 0 && latest->changes.first != NULL; count--) {
        latest->changes.first->done_ns = now_ns;
        market_unmark(latest, latest->changes.first);
    }
}

void ssmd_latest_again(ssmd_latest *latest)
{
    for (market *m = latest->ages.first; m != NULL; m = m->links[AGE].after)
        market_mark(latest, m);
}

void ssmd_latest_tend(ssmd_latest *latest, int64_t now_ns, int64_t ttl_ns)
{
    market *next;
    for (market *m = latest->ages.first; m != NULL; m = next) {
        next = m->links[AGE].after;
        bool lives = m->keeper != NULL && (m->sides[0].count > 0 || m->sides[1].count > 0) && !m->over;
        if (lives && m->done_ns < now_ns - ttl_ns / 2)
            market_mark(latest, m);
        else if (!lives && m->seen.recv_ns < now_ns - ttl_ns && !m->changed)
            market_forget(latest, m);
    }
}

void ssmd_latest_look(const ssmd_latest *latest, ssmd_latest_state *state)
{
    *state = (ssmd_latest_state){
        .number = latest->number,
        .recv_ns = latest->recv_ns,
        .waiting_ns = latest->waiting_ns,
        .markets = latest->count,
        .changed = latest->changed_count,
    };
}
