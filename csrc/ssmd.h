/* ssmd.h - public interface of libssmd (C11, little-endian 64-bit hosts).
 *
 * Everything ssmd does per message happens behind these functions: the clock, the ring, the
 * WebSocket splitter, the Kalshi decoder, the Cap'n Proto writer, the segment writer (flusher)
 * and the segment walker. No function prints, and none reads or writes errno as part of its
 * interface: failures come back as ssmd_status, with details in ssmd_error where one is asked for.
 *
 * Terms (the same in the whole project): frame = the exchange's bytes; record = one Cap'n Proto
 * message; segment = one file of records; journal = the segments of one feed; position = place in
 * the ring, 64 bit, only grows; offset = place in a segment; number = of a record in its journal.
 */
#ifndef SSMD_H
#define SSMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "libssmd writes Cap'n Proto in place and needs a little-endian host"
#endif

#if defined(__GNUC__)
#define SSMD_API __attribute__((visibility("default")))
#else
#define SSMD_API
#endif

/* ---- results ------------------------------------------------------------------------------ */

typedef enum ssmd_status {
    SSMD_OK = 0,
    SSMD_FULL = 1,         /* the ring has no room now: try again after the consumer moved */
    SSMD_EMPTY = 2,        /* nothing to read now */
    SSMD_MORE = 3,         /* stopped early because an output array is full: call again */
    SSMD_TOO_LARGE = -1,   /* can never fit */
    SSMD_BAD_MAGIC = -2,   /* not a file of ours */
    SSMD_BAD_VERSION = -3, /* ours, of another version */
    SSMD_BAD_SIZE = -4,    /* size or capacity does not fit the file */
    SSMD_BUSY = -5,        /* another living process holds this role */
    SSMD_IO = -6,          /* a system call failed: see sys_errno */
    SSMD_NO_MEMORY = -7,
    SSMD_INVALID = -8,  /* an argument is out of range */
    SSMD_PROTOCOL = -9, /* the peer broke the WebSocket protocol */
    SSMD_DAMAGED = -10, /* stored bytes do not check out */
    SSMD_STALE = -11    /* ring of another boot of this machine: its content cannot be trusted */
} ssmd_status;

typedef struct ssmd_error {
    int32_t status;    /* ssmd_status */
    int32_t sys_errno; /* for SSMD_IO */
    int64_t value;     /* what was found: a version, a size, a pid ... */
    int64_t expected;  /* what would have been right */
    char what[128];    /* the operation, e.g. "open", "mmap" */
} ssmd_error;

SSMD_API const char *ssmd_status_text(int status);

/* Record kinds: the ordinals of the union in schemas/market_data.capnp. */
typedef enum ssmd_kind {
    SSMD_KIND_UNPARSED = 0,
    SSMD_KIND_TRADE = 1,
    SSMD_KIND_TICKER = 2,
    SSMD_KIND_BOOK = 3,
    SSMD_KIND_STATUS = 4,
    SSMD_KIND_INDEX = 5,
    SSMD_KIND_CONTROL = 6,
    SSMD_KIND_GAP = 7,
    SSMD_KIND_CONNECTION = 8,
    SSMD_KIND_CLOCK = 9,
    SSMD_KIND_CHECKPOINT = 10,
    SSMD_KIND_ENTRY = 11,
    SSMD_KIND_COUNT = 12
} ssmd_kind;

/* Fixed byte offsets inside every record (checked by tests against the schema). */
enum {
    SSMD_RECORD_NUMBER = 16,
    SSMD_RECORD_RECV_NS = 24,
    SSMD_RECORD_RECV_TICKS = 32,
    SSMD_RECORD_EXCHANGE_NS = 40,
    SSMD_RECORD_SENT_NS = 48,
    SSMD_RECORD_CONNECTION = 56,
    SSMD_RECORD_SID = 60,
    SSMD_RECORD_SEQ = 64,
    SSMD_RECORD_KIND = 72 /* u16 */,
    SSMD_RECORD_FRAME_POINTER = 80,
    SSMD_RECORD_BODY_POINTER = 88,
    SSMD_RECORD_HEADER_BYTES = 96
};

#ifdef __cplusplus
}
#endif
#endif /* SSMD_H */
