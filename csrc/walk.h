/* walk.h - reads segments: records checked one by one, batches checked by their checkpoints.
 *
 * A segment is a file of records, one after the other, each one Cap'n Proto message in standard stream
 * framing with one segment (docs/journal.md has the picture). The flusher closes every batch with a
 * Checkpoint record that carries the CRC-32C of the batch; the last one of a sealed segment is `final`.
 *
 * All functions here work on bytes that the caller holds, whatever their origin (mapping, read, zstd). They
 * accept any input, never read outside it, allocate nothing and keep no pointer to it.
 */
#ifndef SSMD_WALK_H
#define SSMD_WALK_H

#include "ssmd.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The largest record that is believed, framing included. The ring allows half its capacity, so this is
 * what a ring of half a gigabyte could hold; anything longer is a broken length. */
#define SSMD_RECORD_LIMIT (256u * 1024u * 1024u)

/* Why bytes are not believed. */
typedef enum ssmd_fault {
    SSMD_FAULT_NONE = 0,
    SSMD_FAULT_INCOMPLETE = 1, /* the bytes end inside a record: cut off, or not yet written */
    SSMD_FAULT_ZEROS = 2,      /* zero bytes where a record should begin */
    SSMD_FAULT_FRAMING = 3,    /* not the segment table of a message with one segment */
    SSMD_FAULT_SIZE = 4,       /* a length that no record has */
    SSMD_FAULT_ROOT = 5,       /* the root is no Record */
    SSMD_FAULT_POINTER = 6, /* a pointer leads out of the record, in circles, or is of a kind that records never hold */
    SSMD_FAULT_BODY = 7,    /* the body is absent or smaller than its kind */
    SSMD_FAULT_FIELD = 8,   /* a text, list or data field is not one */
    SSMD_FAULT_CRC = 9,     /* the batch does not have the CRC that its checkpoint says */
    SSMD_FAULT_CHECKPOINT = 10, /* a checkpoint whose other fields do not fit where it stands */
    SSMD_FAULT_TRAILING = 11,   /* bytes after the final checkpoint */
    SSMD_FAULT_UNSEALED = 12    /* a sealed segment that does not end in a final checkpoint */
} ssmd_fault;

SSMD_API const char *ssmd_fault_text(int fault);

/* One record as it lies in a buffer. Offsets named *_at count from the start of the record; a length of 0 with
 * *_at 0 means the field is null. The text at market_at has market_bytes bytes and a NUL after them. */
typedef struct ssmd_view {
    uint64_t offset; /* of the record in its segment */
    uint64_t number;
    int64_t recv_ns;
    uint64_t recv_ticks;
    int64_t exchange_ns;
    int64_t sent_ns;
    uint64_t seq;
    uint32_t connection;
    uint32_t sid;
    uint32_t length; /* of the record in bytes, framing included */
    uint16_t kind;   /* ssmd_kind, or the ordinal of a later schema */
    uint16_t sub; /* the body's leading enum: reason, takerSide, book kind, change, source, type, cause, what; final */
    uint32_t frame_at; /* the exchange's bytes */
    uint32_t frame_bytes;
    uint32_t market_at; /* trade, ticker, book, status */
    uint32_t market_bytes;
    uint32_t body_at;     /* data section of the body, at least as long as in schema version 1 */
    uint32_t pointers_at; /* pointer section of the body */
} ssmd_view;

typedef struct ssmd_checkpoint {
    uint64_t bytes;
    uint64_t offset;
    uint64_t records;
    uint32_t crc32c;
    uint32_t max_connection;
    bool final;
} ssmd_checkpoint;

/* Checks the record that begins at `at`, of which n bytes are there, completely: framing, size, every pointer, every
 * text. Fills the view (offset = 0) and returns SSMD_FAULT_NONE, or says what is wrong. n = 0 is INCOMPLETE. */
SSMD_API int ssmd_view_read(const uint8_t *at, uint64_t n, ssmd_view *view);

/* The fields of a Checkpoint record whose view was read from `at`. */
SSMD_API void ssmd_checkpoint_read(const uint8_t *at, const ssmd_view *view, ssmd_checkpoint *checkpoint);

/* The CRC that a batch should have: `crc` over what came before the checkpoint, then the checkpoint itself with
 * its own four CRC bytes counted as zero. */
SSMD_API uint32_t ssmd_checkpoint_crc(uint32_t crc, const uint8_t *at, const ssmd_view *view);

/* What is known at a place of a segment. */
typedef struct ssmd_mark {
    uint64_t offset;      /* the place: a record boundary */
    uint64_t records;     /* numbered records before it in the segment */
    uint64_t last_number; /* of the last of them, 0 = none */
    int64_t last_recv_ns;
    uint32_t max_connection;
    uint32_t clean; /* 1 = the last numbered record says that a run stopped as asked */
} ssmd_mark;

/* A walk through one segment. All zeros is the start. */
typedef struct ssmd_walk {
    ssmd_mark at;          /* how far the walk came: whole, valid records */
    ssmd_mark good;        /* the end of the last checkpoint that checks out; `at` is never before it */
    uint64_t first_number; /* of the segment's first record, 0 = none yet */
    uint64_t fault_offset; /* where it is wrong: the record, or the start of the batch for a CRC */
    int32_t fault;         /* ssmd_fault; a walk with a fault goes no further */
    uint32_t crc;          /* of the bytes from good.offset to at.offset */
    uint32_t final;        /* 1 = the final checkpoint was read */
    uint32_t checkpoints;
} ssmd_walk;

/* Goes on over `data`, the n bytes of the segment that follow walk->at.offset, to the next checkpoint.
 * SSMD_OK: one was passed, everything before at.offset (= good.offset) is proved.
 * SSMD_EMPTY: no further whole record; come back with the bytes from at.offset on when there are more.
 * SSMD_DAMAGED: see fault and fault_offset; nothing after good.offset can be relied upon. */
SSMD_API int ssmd_walk_next(ssmd_walk *walk, const uint8_t *data, uint64_t n);

/* No more bytes will come, and n of them are left after walk->at.offset: judges the end of the segment. A sealed one
 * must end with its final checkpoint; an open one with a whole record. SSMD_OK or SSMD_DAMAGED. */
SSMD_API int ssmd_walk_end(ssmd_walk *walk, uint64_t n, bool sealed);

/* All of the above over a segment that is in memory as a whole. SSMD_OK or SSMD_DAMAGED. */
SSMD_API int ssmd_walk_scan(ssmd_walk *walk, const uint8_t *data, uint64_t n, bool sealed);

/* After damage: looks in `data` (the n bytes of the segment from `offset` on) for the first batch that proves itself,
 * from *place on, where its checkpoint may stand (at first: good.offset; `data` must begin there or before). SSMD_OK:
 * the walk stands at that batch's beginning, which is now good.offset, its fault forgotten; walk on from there. Between
 * the old good.offset and the new one, good.records tells how many records are lost. SSMD_EMPTY: none yet; *place is
 * where to go on when more bytes are there. A batch that began before `offset` is not found, nor one where a call would
 * have to look at more than 16 times the bytes it was given. */
SSMD_API int ssmd_walk_resync(ssmd_walk *walk, const uint8_t *data, uint64_t n, uint64_t offset, uint64_t *place);

/* Which records a reader wants. */
typedef struct ssmd_filter {
    uint64_t kinds;      /* bit ssmd_kind; SSMD_FILTER_DELTA for book deltas (bit SSMD_KIND_BOOK: snapshots); bit 63 for
                            later kinds */
    int64_t from_ns;     /* recv_ns >= from_ns */
    int64_t to_ns;       /* recv_ns < to_ns */
    const char *markets; /* names, each ended by NUL, or NULL for all records */
    uint32_t market_count;
} ssmd_filter;
#define SSMD_FILTER_DELTA (1ull << 32)
#define SSMD_FILTER_LATER (1ull << 63)
#define SSMD_FILTER_ALL (~0ull)

/* Views of the whole records in `data` (n bytes that begin at `offset` of their segment) that pass the filter (NULL =
 * all), at most `capacity`. *count views were filled, *used bytes are done with: call again behind them while
 * SSMD_MORE. SSMD_OK: done up to the last whole record. SSMD_DAMAGED: at *used there is no valid record. */
SSMD_API int ssmd_views_read(const uint8_t *data, uint64_t n, uint64_t offset, const ssmd_filter *filter,
                             ssmd_view *views, uint64_t capacity, uint64_t *count, uint64_t *used);

#ifdef __cplusplus
}
#endif
#endif
