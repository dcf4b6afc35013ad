/* ring.h - single-producer single-consumer byte ring in a shared mapping.
 *
 * The file: one header (4 pages), then `capacity` bytes of data. The data area is mapped twice in a
 * row, so that every record and every readable span is contiguous. Positions are 64 bit and only
 * grow; index = position & (capacity - 1). One writer per header line, each line 128 bytes apart.
 *
 *   header     magic, version, capacity, boot id, creation time           (written once)
 *   producer   head: position after the last published byte               (producer)
 *   consumer   tail: position after the last released byte                (consumer)
 *   commit     two slots with generations: what is in the files already   (consumer)
 *   clock      anchor: ticks, wall, rate                                  (producer)
 *   status     flusher state, error, counters; producer counters          (each its own line)
 *
 * Roles are exclusive: a producer and a consumer each hold an open-file-description lock on their
 * byte of the file, so a role ends with its process, however it dies; pid and start time stand in
 * the line for the error message. Observers take no lock and write nothing.
 */
#ifndef SSMD_RING_H
#define SSMD_RING_H

#include "ssmd.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SSMD_RING_VERSION 1u
#define SSMD_RING_MIN_BYTES (64u * 1024u)
#define SSMD_RING_DEFAULT_BYTES (4u * 1024u * 1024u)

typedef struct ssmd_ring ssmd_ring;

typedef enum ssmd_role { SSMD_OBSERVER = 0, SSMD_PRODUCER = 1, SSMD_CONSUMER = 2 } ssmd_role;

/* What the files hold already, as of the last commit of the consumer. */
typedef struct ssmd_commit {
    uint64_t generation;        /* +1 with every commit; 0 = nothing was ever committed */
    uint64_t position;          /* ring position up to which bytes are in the segment file */
    uint64_t last_number;       /* number of the last record in the journal, 0 = none */
    int64_t last_recv_ns;       /* its receive time */
    uint64_t segment_first;     /* first record number of the open segment (part of its name), 0 = none open */
    int64_t segment_start_ns;   /* receive time of that record (the other part of its name) */
    uint64_t segment_offset;    /* committed length of the open segment */
    uint64_t segment_records;   /* numbered records in it */
    uint64_t checkpoint_offset; /* end of its last checkpoint */
    uint64_t durable_number;    /* last record number known to have reached the disk */
    uint32_t crc32c;            /* running CRC-32C since checkpoint_offset */
    uint32_t max_connection;    /* highest connection number in the journal */
    uint32_t clean;             /* 1 = the last record says that a run stopped as asked */
    uint32_t segment_day;       /* yyyymmdd of the folder of the open segment */
} ssmd_commit;

/* Creates the file if there is none (never for an observer), else attaches to what is there.
 * capacity 0 = that of the file, or the default for a new one. A ring of another boot gives SSMD_STALE
 * (its content cannot be trusted after a power cut): see ssmd_ring_reset. A second producer or consumer gets
 * SSMD_BUSY with the owner's pid in error->value. */
SSMD_API int ssmd_ring_open(const char *path, uint64_t capacity, int role, ssmd_ring **ring, ssmd_error *error);
SSMD_API void ssmd_ring_close(ssmd_ring *ring);

/* Makes the file anew, empty, with `resume` as its first commit (last_number, last_recv_ns, max_connection and clean count; segment fields 0).
 * Fails with SSMD_BUSY while a producer or consumer lives. */
SSMD_API int ssmd_ring_create(const char *path, uint64_t capacity, const ssmd_commit *resume, ssmd_error *error);

SSMD_API uint64_t ssmd_ring_capacity(const ssmd_ring *ring);
SSMD_API uint64_t ssmd_ring_limit(const ssmd_ring *ring);  /* largest record: half the capacity */
SSMD_API uint64_t ssmd_ring_head(const ssmd_ring *ring);   /* published */
SSMD_API uint64_t ssmd_ring_tail(const ssmd_ring *ring);   /* released */

/* Producer. claim gives room for n contiguous bytes after what was advanced over so far; advance keeps
 * the first n of them (still private); publish makes all that was advanced over visible with one release store.
 * claim: SSMD_OK, SSMD_FULL or SSMD_TOO_LARGE. No system call, no allocation, no blocking. */
SSMD_API int ssmd_ring_claim(ssmd_ring *ring, uint64_t n, uint8_t **at);
SSMD_API void ssmd_ring_advance(ssmd_ring *ring, uint64_t n);
SSMD_API void ssmd_ring_publish(ssmd_ring *ring);

/* Consumer. peek gives all published bytes after the tail as one span (SSMD_OK or SSMD_EMPTY); release gives n of them back. */
SSMD_API int ssmd_ring_peek(ssmd_ring *ring, const uint8_t **at, uint64_t *n);
SSMD_API void ssmd_ring_release(ssmd_ring *ring, uint64_t n);

/* The commit line. Any role may read it (SSMD_EMPTY if no slot is whole); only the consumer stores. */
SSMD_API int ssmd_ring_commit_load(const ssmd_ring *ring, ssmd_commit *commit);
SSMD_API int ssmd_ring_commit_store(ssmd_ring *ring, ssmd_commit *commit); /* sets generation */

/* Where a new producer goes on: walks tail..head behind the commit. number = last number in use. */
typedef struct ssmd_resume {
    uint64_t last_number;
    int64_t last_recv_ns;
    uint32_t max_connection;
    uint32_t clean;      /* the last record is ConnectionEvent `stopped`, or there is none at all */
} ssmd_resume;
SSMD_API int ssmd_ring_resume(const ssmd_ring *ring, ssmd_resume *resume);

#ifdef __cplusplus
}
#endif
#endif
