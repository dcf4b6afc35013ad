/* latest.h - what was last seen of each market: best bid and ask of its book, last trade, last ticker.
 *
 * Follows the records of a journal, each once and in order, and keeps for every market what they said last. Whoever
 * wants to know takes the markets that changed: each comes once, as it is now, however often it changed. Its plain
 * twin, the specification, is ssmd/lastvalues/plain.py; a test holds the two equal.
 *
 * A book is synced only while every change of it since its snapshot is known; else `sync` says why it is not.
 *
 * Not for: checking bytes (walk.h): give it whole, valid records. Not for: what lifecycle messages say: their views are
 * handed out.
 */
#ifndef SSMD_LATEST_H
#define SSMD_LATEST_H

#include "walk.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ssmd_latest ssmd_latest;

/* Whether a market's book is known, and if not, why. */
typedef enum ssmd_sync {
    SSMD_SYNC_NEVER = 0, /* nothing of its book was seen */
    SSMD_SYNC_SYNCED = 1,
    SSMD_SYNC_NO_SNAPSHOT = 2,
    SSMD_SYNC_BELOW_ZERO = 3, /* a delta took a level below zero */
    SSMD_SYNC_MISSED = 4,     /* a Gap record, or skipped sequence numbers */
    SSMD_SYNC_CLOSED = 5,     /* the connection */
    SSMD_SYNC_STARTED = 6,    /* another run */
    SSMD_SYNC_STOPPED = 7,
    SSMD_SYNC_ENDED = 8,  /* the subscription */
    SSMD_SYNC_LEFT = 9,   /* the market left its subscription */
    SSMD_SYNC_BREAK = 10, /* record numbers do not follow each other */
    SSMD_SYNC_DAMAGE = 11 /* of the journal */
} ssmd_sync;

/* One market. A number of 0 means that there was no such record. */
typedef struct ssmd_last {
    uint64_t serial;      /* of the market here: never used for another one */
    const char *market;   /* market_bytes long; valid until the next call that changes anything, as is trade_id */
    const char *trade_id; /* NULL = the trade had none */
    uint64_t number;      /* last record about it */
    int64_t recv_ns;
    uint64_t book_number; /* last change of the book, while it was followed */
    int64_t book_recv_ns, book_exchange_ns;
    uint64_t trade_number;
    int64_t trade_recv_ns, trade_exchange_ns;
    uint64_t ticker_number;
    int64_t ticker_recv_ns, ticker_exchange_ns;
    int64_t bid_size_e2, ask_size_e2;
    int64_t trade_count_e2;
    int64_t ticker_wide[7]; /* volumeE2 .. lastTradeSizeE2 */
    int32_t bid_e4, ask_e4; /* of the book; where it is not synced and `was`: when it was last believed */
    int32_t trade_price_e4;
    int32_t ticker_prices[3]; /* priceE4, yesBidE4, yesAskE4 */
    uint32_t ticker_present;  /* as in the record */
    uint32_t bid_levels, ask_levels;
    uint32_t market_bytes, trade_id_bytes;
    uint16_t sync;
    uint16_t trade_side; /* enum Side of the schema */
    uint8_t trade_block;
    uint8_t was;
    uint8_t reserved[6];
} ssmd_last;

/* At most `max_markets` (1 or more): beyond, the one that changed longest ago is forgotten. NULL: no memory. */
SSMD_API ssmd_latest *ssmd_latest_open(uint64_t max_markets);
SSMD_API void ssmd_latest_close(ssmd_latest *latest);

/* Follows the whole records in `data` (n bytes that begin at `offset` of their segment). To `views` go those of status
 * records, and of an `ok` reply on a sid that keeps books: act on it (ssmd_latest_books, ssmd_latest_unsync) before
 * going on. SSMD_OK, SSMD_MORE (go on at *used), SSMD_DAMAGED (no valid record at *used) or SSMD_NO_MEMORY. */
SSMD_API int ssmd_latest_add(ssmd_latest *latest, const uint8_t *data, uint64_t n, uint64_t offset, ssmd_view *views,
                             uint64_t capacity, uint64_t *count, uint64_t *used);

/* Every book may have missed something. */
SSMD_API void ssmd_latest_doubt(ssmd_latest *latest, uint32_t sync);

/* The markets whose books a sid keeps synced: how many; at most `capacity` of them go to `out`. */
SSMD_API uint64_t ssmd_latest_books(const ssmd_latest *latest, uint32_t connection, uint32_t sid, ssmd_last *out,
                                    uint64_t capacity);

/* The book of one market is not to be believed, whatever sid keeps it. */
SSMD_API void ssmd_latest_unsync(ssmd_latest *latest, const char *market, uint32_t market_bytes, uint32_t sync);

/* Adds a market known from elsewhere (market, number, recv_ns), as the one that changed longest ago, unless there is no
 * room; where it or the argument's book (sync, was, quote, book_*) is known here already, that stays. It counts as
 * changed. SSMD_OK, SSMD_FULL or SSMD_NO_MEMORY. */
SSMD_API int ssmd_latest_carry(ssmd_latest *latest, const ssmd_last *value);

/* The first `capacity` of the markets that changed, in the order in which they first did; gives how many. */
SSMD_API uint64_t ssmd_latest_changed(const ssmd_latest *latest, ssmd_last *out, uint64_t capacity);

/* The first `count` of those are done with, at `now_ns`. */
SSMD_API void ssmd_latest_done(ssmd_latest *latest, uint64_t count, int64_t now_ns);

/* All markets count as changed. */
SSMD_API void ssmd_latest_again(ssmd_latest *latest);

/* Markets that live (a synced book with levels, not determined or settled) count as changed where they were done before
 * now - ttl/2; others are forgotten where their last record is older than the ttl. */
SSMD_API void ssmd_latest_tend(ssmd_latest *latest, int64_t now_ns, int64_t ttl_ns);

typedef struct ssmd_latest_state {
    uint64_t number; /* last record */
    int64_t recv_ns;
    int64_t waiting_ns; /* receive time of the first change that is not done, 0 = none waits */
    uint64_t markets, changed;
} ssmd_latest_state;
SSMD_API void ssmd_latest_look(const ssmd_latest *latest, ssmd_latest_state *state);

#ifdef __cplusplus
}
#endif
#endif
