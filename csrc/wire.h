/* wire.h - from a socket's bytes to records in the ring: the producer's whole hot path.
 *
 *   ssmd_writer   one per ring: gives records their numbers, counts them, knows the markets
 *   ssmd_conn     one per socket: receive area, splitter, decoder, sequence tracking
 *
 * ssmd_conn_receive reads a plain socket and handles what came in one call; what has to be decrypted first is put into
 * the connection's area by Python, which then calls ssmd_conn_feed once per read. All that a session has to see of
 * it (pings, replies, gaps ...) comes back as events; data frames never leave C.
 *
 *              carry             receive area, recv_bytes: always the same place
 *      [ ........ |rest| ][ ping | text ........ | text ... | tex ]
 *                  `------- read as one ------------------'   `- gathered in the assembly area
 *
 * What is left of a frame cut by the end of a read is put together in the assembly area (max_frame_bytes, touched only
 * when used); only a cut header or control frame is moved to just before the receive area.
 *
 * A full ring stops the feed between two messages, or between a Gap record and the record that follows it. The state
 * says where, and feed(0) goes on exactly there: nothing twice, nothing lost, the stamp is that of the read.
 *
 * One thread at a time: the producer's. Counters and activities may be read by any thread.
 */
#ifndef SSMD_WIRE_H
#define SSMD_WIRE_H

#include "intern.h"
#include "kalshi.h"
#include "ring.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- writer ------------------------------------------------------------------------------- */

typedef struct ssmd_writer ssmd_writer;

typedef struct ssmd_counters {
    uint64_t records[SSMD_KIND_COUNT]; /* by kind */
    uint64_t frames;                   /* text and binary messages */
    uint64_t bytes;                    /* of those frames */
    uint64_t unknown_fields;           /* docs/records.md says what counts */
    uint64_t unknown_types;
    uint64_t unknown_values;
    uint64_t malformed;
    uint64_t repeats; /* sequence numbers that did not rise */
    uint64_t gaps;    /* Gap records written here: sequence, frameTooLarge */
    uint64_t refused_names;
    uint64_t untracked; /* frames whose numbers are not followed: one sid too many */
} ssmd_counters;

/* `ring` must be open as producer and outlive the writer. last_number: of the last record in the journal, 0 = none. */
SSMD_API int ssmd_writer_open(ssmd_ring *ring, uint64_t last_number, ssmd_writer **writer);
SSMD_API void ssmd_writer_close(ssmd_writer *writer);

/* One whole record from outside, published at once. It gets the next number, which is patched in and given back.
 * SSMD_INVALID: not one record of our schema. SSMD_FULL, SSMD_TOO_LARGE: as the ring says. */
SSMD_API int ssmd_writer_push(ssmd_writer *writer, const uint8_t *record, size_t n, uint64_t *number);

SSMD_API uint64_t ssmd_writer_next_number(const ssmd_writer *writer);
SSMD_API void ssmd_writer_counters(const ssmd_writer *writer, ssmd_counters *counters);
SSMD_API ssmd_interner *ssmd_writer_markets(const ssmd_writer *writer); /* the writer's: do not close */

/* ---- connection --------------------------------------------------------------------------- */

typedef struct ssmd_conn ssmd_conn;

typedef struct ssmd_conn_options {
    uint64_t max_frame_bytes; /* longest message; 0 = 1 MiB */
    uint64_t recv_bytes;      /* receive area, 4 KiB .. 16 MiB; 0 = 512 KiB */
    uint32_t connection;      /* its number in the journal */
    uint32_t use_yes_price;
    uint32_t keep_frames;
    uint32_t reserved;
} ssmd_conn_options;

/* Why a feed came back: the values of ssmd.wire.FeedStatus. */
typedef enum ssmd_feed_status {
    SSMD_FEED_OK = 0,
    SSMD_FEED_FULL = 1,
    SSMD_FEED_MORE = 2,
    SSMD_FEED_PROTOCOL = 3,
    SSMD_FEED_TOO_LARGE = 4,
    SSMD_FEED_CLOSED = 5
} ssmd_feed_status;

/* ssmd.wire.EventKind */
typedef enum ssmd_event_kind {
    SSMD_EVENT_PING = 0,
    SSMD_EVENT_PONG = 1,
    SSMD_EVENT_CLOSE = 2,
    SSMD_EVENT_REPLY = 3,
    SSMD_EVENT_SNAPSHOT = 4,
    SSMD_EVENT_GAP = 5,
    SSMD_EVENT_REPEAT = 6,
    SSMD_EVENT_UNDECODED = 7,
    SSMD_EVENT_DRIFT = 8
} ssmd_event_kind;

typedef struct ssmd_event {
    uint32_t kind; /* ssmd_event_kind */
    uint32_t sid;
    uint64_t seq;
    uint64_t id;
    uint64_t number;
    uint64_t first;
    uint64_t last;
    uint32_t reason;
    uint32_t data_bytes;
    const uint8_t *data; /* valid until the next feed */
} ssmd_event;

typedef struct ssmd_feed_result {
    int32_t status; /* ssmd_feed_status */
    uint32_t event_count;
    const ssmd_event *events; /* of this call, in the order of the wire */
    uint64_t frames;          /* messages of this connection so far */
    int64_t last_recv_ns;     /* stamp of the last chunk, 0 = none yet */
    int64_t received;         /* by the last ssmd_conn_receive: bytes, 0 = the other side has ended, or -errno */
} ssmd_feed_result;

/* SSMD_INVALID: an option is out of range, or max_frame_bytes + SSMD_UNPARSED_OVERHEAD_BYTES is more than the ring
 * takes. */
SSMD_API int ssmd_conn_open(ssmd_writer *writer, const ssmd_conn_options *options, ssmd_conn **conn);
SSMD_API void ssmd_conn_close(ssmd_conn *conn);

/* Where to receive. At most recv_bytes at once. */
SSMD_API uint8_t *ssmd_conn_buffer(const ssmd_conn *conn);
SSMD_API uint64_t ssmd_conn_buffer_bytes(const ssmd_conn *conn);
/* What the last feed said; always the same address. */
SSMD_API const ssmd_feed_result *ssmd_conn_result(const ssmd_conn *conn);

/* After SSMD_FEED_PROTOCOL: what the other side did wrong, in words; "" before. */
SSMD_API const char *ssmd_conn_fault(const ssmd_conn *conn);

/* Handles `received` bytes at the start of the buffer; 0 = goes on with what is left after FULL or MORE. Gives the
 * ssmd_feed_status, or SSMD_INVALID (a negative number) when `received` is more than the buffer, or is not 0 while
 * something is left; then nothing happens. */
SSMD_API int ssmd_conn_feed(ssmd_conn *conn, uint64_t received);

/* One recv from this socket, which never waits, and the feed of what came. 0: something came, it is in the ring, and
 * there is nothing to see. 1: look at the result (status, events, received). SSMD_INVALID while something is left,
 * without a recv. */
SSMD_API int ssmd_conn_receive(ssmd_conn *conn, int descriptor);

#ifdef __cplusplus
}
#endif
#endif
