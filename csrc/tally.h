/* tally.h - accounts for the records of a journal in one pass: counts, numbers, sequence numbers, order books.
 *
 * What `ssmd verify` and manifests are made of. The tally sees each record once, in the order of the journal, and
 * keeps what a reader could not afford to keep in Python at a million records a second. Its plain twin, the
 * specification, is ssmd/quality.py with ssmd/book.py; a test holds the two equal.
 *
 * Not for: deciding what any of it means (ssmd/quality.py), nor for checking bytes (walk.h): give it whole, valid
 * records.
 */
#ifndef SSMD_TALLY_H
#define SSMD_TALLY_H

#include "walk.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ssmd_tally ssmd_tally;

enum { SSMD_TALLY_DELTA = SSMD_KIND_COUNT, SSMD_TALLY_LATER, SSMD_TALLY_KINDS };

typedef struct ssmd_totals {
    uint64_t bytes;
    uint64_t records; /* numbered ones: checkpoints are not */
    uint64_t frames;
    uint64_t frame_bytes;
    uint64_t by_kind[SSMD_TALLY_KINDS]; /* ssmd_kind (book: snapshots), then book deltas, then kinds of later schemas */
    uint64_t first_number, last_number; /* 0 = none */
    int64_t first_recv_ns, last_recv_ns;
    uint64_t breaks;                    /* numbers that do not follow the one before */
    uint64_t channels, holes, findings; /* how many the calls below give */
    /* books */
    uint64_t books;            /* (connection, sid, market) that had a snapshot */
    uint64_t books_checked;    /* snapshots that could be compared with the replayed book */
    uint64_t books_mismatched; /* ... and differed */
    uint64_t books_emptied;    /* unsolicited empty snapshots over a book that was not: the exchange closed it */
    uint64_t levels_negative;  /* deltas that took a level below zero */
    uint64_t books_crossed;    /* changes after which the best bid was no longer below the best ask */
    uint64_t deltas_orphaned;  /* deltas for a book without snapshot */
} ssmd_totals;

/* One sid of one connection, as far as frames were seen on it. */
typedef struct ssmd_channel {
    uint32_t connection, sid;
    uint64_t first_seq, last_seq; /* 0 = no frame had a number; last = of the last frame that was no repeat */
    uint64_t frames;
    uint64_t repeats;      /* frames whose seq did not rise */
    uint64_t first_number; /* record of first_seq, or of the first frame */
    int64_t first_recv_ns, last_recv_ns;
    uint64_t kinds; /* bit ssmd_kind */
} ssmd_channel;

/* Sequence numbers that never came, seen from those around them. Before first_seq nothing is known here. */
typedef struct ssmd_hole {
    uint32_t connection, sid;
    uint64_t from_seq, to_seq;
    int64_t from_ns, to_ns; /* receive times of the frames before and after */
    uint64_t number;        /* of the record after */
} ssmd_hole;

/* Something that does not fit together. The first SSMD_FINDINGS_LIMIT are kept, all are counted in the totals. */
typedef struct ssmd_finding {
    uint64_t offset;   /* of the record in its segment */
    uint64_t number;   /* of the record */
    uint64_t expected; /* SSMD_FINDING_NUMBER: what the number should have been */
    uint32_t what;
    uint32_t connection;
} ssmd_finding;
enum {
    SSMD_FINDING_NUMBER = 0,   /* the record's number is not that of the one before plus one */
    SSMD_FINDING_BOOK = 1,     /* a snapshot differs from the book that was replayed up to it */
    SSMD_FINDING_NEGATIVE = 2, /* a delta takes a level below zero */
    SSMD_FINDING_ORPHAN = 3    /* only of suspects: a delta for a market without snapshot */
};
#define SSMD_FINDINGS_LIMIT 10000u

/* A book that cannot be right since record `number`, and had no snapshot after it. */
typedef struct ssmd_suspect {
    uint64_t number;
    int64_t recv_ns;
    const char *market; /* not terminated; valid until the next add */
    uint32_t market_bytes;
    uint32_t connection, sid;
    uint32_t why; /* ssmd_finding's: SSMD_FINDING_NEGATIVE or SSMD_FINDING_ORPHAN */
} ssmd_suspect;

/* NULL when there is no memory. */
SSMD_API ssmd_tally *ssmd_tally_open(bool books);
SSMD_API void ssmd_tally_close(ssmd_tally *tally);

/* Accounts for the whole records in `data` (n bytes that begin at `offset` of their segment). Views of Control, Gap and
 * ConnectionEvent records go to `events` for the caller to read. SSMD_OK, SSMD_MORE (events is full: go on at *used),
 * SSMD_DAMAGED (no valid record at *used) or SSMD_NO_MEMORY. */
SSMD_API int ssmd_tally_add(ssmd_tally *tally, const uint8_t *data, uint64_t n, uint64_t offset, ssmd_view *events,
                            uint64_t capacity, uint64_t *count, uint64_t *used);

SSMD_API void ssmd_tally_totals(const ssmd_tally *tally, ssmd_totals *totals);

/* Copies items from `first` on, at most `capacity`; gives how many. */
SSMD_API uint64_t ssmd_tally_channels(const ssmd_tally *tally, uint64_t first, ssmd_channel *out, uint64_t capacity);
SSMD_API uint64_t ssmd_tally_holes(const ssmd_tally *tally, uint64_t first, ssmd_hole *out, uint64_t capacity);
SSMD_API uint64_t ssmd_tally_findings(const ssmd_tally *tally, uint64_t first, ssmd_finding *out, uint64_t capacity);

/* The books that are suspect now: how many there are, of which at most `capacity` go to `out`. A market without
 * snapshot is one only where its sid was seen from its first number on. */
SSMD_API uint64_t ssmd_tally_suspects(const ssmd_tally *tally, ssmd_suspect *out, uint64_t capacity);

#ifdef __cplusplus
}
#endif
#endif
