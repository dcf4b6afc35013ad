/* kalshi.h - one frame of Kalshi's WebSocket API, decoded, and written as one record.
 *
 * docs/records.md is the specification, to the byte; ssmd/normalizer.py is its plain twin. Decoding never fails:
 * what cannot be understood becomes an `unparsed` record with a reason. Decoding keeps spans into the frame, so the
 * frame must stay where it is until the record is written. Nothing is allocated; ladders are walked twice (once to
 * check and count, once to write) instead of being kept.
 *
 *      ssmd_message_decode(&message, frame, n, flags, limit);    // what is it, and how large will its record be
 *      claim message.record_bytes somewhere;
 *      ssmd_message_write(&message, &header, at);
 */
#ifndef SSMD_KALSHI_H
#define SSMD_KALSHI_H

#include "capnp.h"
#include "json.h"
#include "ssmd.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SSMD_FRAME_USE_YES_PRICE = 1, /* the connection asked for NO prices on the YES scale */
    SSMD_FRAME_KEEP = 2,          /* records carry the frame (unparsed ones always do) */
    SSMD_FRAME_BINARY = 4         /* came as a binary message */
};

/* Bytes that an unparsed record takes beside its frame, at most. */
#define SSMD_UNPARSED_OVERHEAD_BYTES 256u

/* Ordinals of Unparsed.Reason. */
typedef enum ssmd_reason {
    SSMD_REASON_BAD_JSON = 0,
    SSMD_REASON_NO_TYPE = 1,
    SSMD_REASON_UNKNOWN_TYPE = 2,
    SSMD_REASON_NOT_DECODED = 3,
    SSMD_REASON_MISSING_FIELD = 4,
    SSMD_REASON_BAD_FIELD = 5,
    SSMD_REASON_BINARY = 6,
    SSMD_REASON_TOO_COMPLEX = 7
} ssmd_reason;

enum {
    SSMD_MESSAGE_FIELDS = 24,  /* known keys of one object, at most */
    SSMD_MESSAGE_UNKNOWNS = 32 /* unknown keys of one object that are remembered by name */
};

/* One field as found. Which member counts follows from its rule. */
typedef struct ssmd_field_value {
    int64_t number;
    const uint8_t *at; /* text; ladder: its opening bracket */
    size_t n;          /* bytes of the text; ladder: levels */
    int32_t lowest;    /* ladder: lowest price */
} ssmd_field_value;

/* One object as found: bit i of the masks is field i of its shape. */
typedef struct ssmd_fields {
    uint32_t present;
    uint32_t bad;      /* strict and malformed */
    uint32_t odd;      /* lenient and malformed */
    uint32_t unknowns; /* unknown keys, all of them */
    ssmd_field_value values[SSMD_MESSAGE_FIELDS];
    ssmd_text unknown[SSMD_MESSAGE_UNKNOWNS];
} ssmd_fields;

typedef struct ssmd_ladder {
    const uint8_t *at;
    size_t levels;
    bool inverted; /* write 10000 - price */
} ssmd_ladder;

struct ssmd_type_row;

typedef struct ssmd_message {
    ssmd_text frame;
    const struct ssmd_type_row *row; /* NULL: no such type */
    ssmd_kind kind;
    ssmd_reason reason; /* unparsed only */
    uint32_t flags;
    uint32_t sid;
    uint64_t seq;
    uint64_t id;
    int64_t sent_ns;
    int64_t exchange_ns;
    ssmd_text type;
    ssmd_text market;        /* trade, ticker, book, status; else empty */
    bool sequenced;          /* a decoded type of a channel with sequence numbers */
    bool msg_read;           /* `msg` was read, under the type that counts */
    uint32_t unknown_fields; /* for the counters, as docs/records.md counts */
    uint32_t malformed;
    ssmd_text unknown_value; /* an enum value that is not in the list; else empty */
    size_t record_bytes;     /* of the record that write will make */

    /* bodies: integers that the write step needs, resolved from the fields */
    uint32_t side, change, present, code, control_sid;
    bool block, snapshot, yes_scale, has_settlement, multivariate, has_value, has_average;
    int32_t price_e4[3]; /* price, bid, ask */
    int64_t count_e2[7]; /* see the writers */
    int64_t times_ns[4];
    ssmd_text texts[4];
    ssmd_ladder bids, asks;

    /* the raw fields; only what `present` names is set */
    ssmd_fields envelope;
    ssmd_fields msg;
    const uint8_t *msg_at;
    const uint8_t *msg_type_at;          /* where the type stood under which `msg` was read */
    const struct ssmd_type_row *msg_row; /* the type under which `msg` was read */
} ssmd_message;

/* Decodes frame[0..n), which a NUL and the padding of json.h follow. A record beyond limit_bytes becomes
 * unparsed/tooComplex. */
void ssmd_message_decode(ssmd_message *message, const uint8_t *frame, size_t n, uint32_t flags, uint64_t limit_bytes);

/* Writes the record to `at` (message->record_bytes long, 8-byte aligned or not). header: number, receive time and
 * connection are taken, the rest is filled in. */
void ssmd_message_write(const ssmd_message *message, const ssmd_record_header *header, uint8_t *at);

/* Everything about one frame that does not stand in it. */
typedef struct ssmd_frame_meta {
    uint64_t number;
    int64_t recv_ns;
    uint64_t recv_ticks;
    uint64_t limit_bytes; /* largest record; 0 = no limit */
    uint32_t connection;
    uint32_t flags; /* SSMD_FRAME_* */
} ssmd_frame_meta;

/* Decode and write in one call, into memory of the caller's. SSMD_OK, or SSMD_TOO_LARGE when `capacity` is too small
 * (nothing is written then, and *written says how much it takes), or SSMD_NO_MEMORY. The frame needs no padding here.
 */
SSMD_API int ssmd_normalize(const uint8_t *frame, size_t n, const ssmd_frame_meta *meta, uint8_t *out, size_t capacity,
                            size_t *written);

#ifdef __cplusplus
}
#endif
#endif
