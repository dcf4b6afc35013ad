/* ring.h - single-producer single-consumer byte ring in a shared mapping.
 *
 * The file: a header of 64 KiB (whole pages on every host), then `capacity` bytes of data. The data area is
 * mapped twice in a row, so that every record and every readable span is contiguous. Positions are 64 bit and
 * only grow; index = position & (capacity - 1). One writer per header line, each line 128 bytes apart.
 *
 *      0  header     magic, version, capacity, boot id, creation time           (written once)
 *    128  producer   head: position after the last published byte; owner        (producer)
 *    256  consumer   tail: position after the last released byte; owner         (consumer)
 *    384  commit     two slots with generations: what is in the files already   (consumer)
 *    640  clock      anchor: ticks, wall, rate                                  (producer)
 *    768  status     flusher state, present error, counters                     (consumer)
 *    896  bell       does the consumer sleep, and from when on may it be woken  (both)
 *
 *                tail                 head                       tail + capacity
 *      released   |     readable       |   claimed, not published  |
 *    -------------+--------------------+---------------------------+---> position
 *
 * Roles are exclusive: a producer and a consumer each hold an open-file-description lock on their
 * byte of the file, so a role ends with its process, however it dies; pid and start time stand in
 * the line for the error message. Observers take no lock and write nothing.
 *
 * Records are whole: what is published ends where a record ends, and sizes are multiples of 8 (Cap'n Proto words).
 *
 * The producer never waits. A consumer with nothing to do may sleep on the bell; the producer wakes it only when it
 * sleeps, is due and has something to read, so a busy producer makes no system call.
 *
 * Not for: several producers or consumers, a producer that waits for room (it looks again), more than one machine,
 * surviving a reboot (a ring of another boot is refused; the segment files are what lasts). A process that forks
 * without exec shares its roles with the child: do not.
 */
#ifndef SSMD_RING_H
#define SSMD_RING_H

#include "ssmd.h"
#include "clock.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SSMD_RING_VERSION 1u
#define SSMD_RING_MIN_BYTES (64u * 1024u)
#define SSMD_RING_DEFAULT_BYTES (4u * 1024u * 1024u)
#define SSMD_RING_MAX_BYTES (UINT64_C(1) << 36)
#define SSMD_RING_WAKE_BYTES                                                                                           \
    (256u * 1024u) /* so much waiting (at most half the ring) wakes a consumer that is not due */

typedef struct ssmd_ring ssmd_ring;

/* Bits: PRODUCER | CONSUMER makes one mapping that one thread writes and another reads. */
typedef enum ssmd_role { SSMD_OBSERVER = 0, SSMD_PRODUCER = 1, SSMD_CONSUMER = 2 } ssmd_role;

/* What the files hold already, as of the last commit of the consumer. */
typedef struct ssmd_commit {
    uint64_t generation;        /* +1 with every commit; 0 = nothing was ever committed */
    uint64_t position;          /* ring position up to which bytes are in the segment file */
    uint64_t last_number;       /* number of the last record in the journal, 0 = none */
    int64_t last_recv_ns;       /* its receive time */
    uint64_t segment_first;     /* first record number of the open segment (part of its name), 0 = none open */
    int64_t segment_start_ns;   /* receive time of that record (the other part of its name) */
    uint64_t segment_offset;    /* committed length of the open segment; 0 = it may not exist yet */
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
 * (its content cannot be trusted after a power cut): see ssmd_ring_create. A second producer or consumer gets
 * SSMD_BUSY with the owner's pid in error->value (0 = not known) and the role in error->what. */
SSMD_API int ssmd_ring_open(const char *path, uint64_t capacity, int role, ssmd_ring **ring, ssmd_error *error);

/* The same without ever creating: SSMD_IO with ENOENT if there is no file. */
SSMD_API int ssmd_ring_attach(const char *path, uint64_t capacity, int role, ssmd_ring **ring, ssmd_error *error);
SSMD_API void ssmd_ring_close(ssmd_ring *ring);

/* Makes the file anew, empty, with `resume` (NULL = a journal without records) as its first commit: last_number,
 * last_recv_ns, max_connection and clean count, the rest is 0. Fails with SSMD_BUSY while a producer or consumer
 * lives, and with SSMD_BAD_MAGIC where the path holds anything but a ring (of any version). */
SSMD_API int ssmd_ring_create(const char *path, uint64_t capacity, const ssmd_commit *resume, ssmd_error *error);

SSMD_API uint64_t ssmd_ring_capacity(const ssmd_ring *ring);
SSMD_API uint64_t ssmd_ring_limit(const ssmd_ring *ring); /* largest record: half the capacity */
SSMD_API uint64_t ssmd_ring_head(const ssmd_ring *ring);  /* published */
SSMD_API uint64_t ssmd_ring_tail(const ssmd_ring *ring);  /* released */

/* pid of the living owner of the role; 0 = nobody holds it, -1 = somebody whose pid is not known. */
SSMD_API int64_t ssmd_ring_owner(const ssmd_ring *ring, int role);

/* Producer. claim gives room for n contiguous bytes after what was advanced over so far; advance keeps
 * the first n of them (still private); publish makes all that was advanced over visible with one release store.
 * claim: SSMD_OK, SSMD_FULL or SSMD_TOO_LARGE (SSMD_INVALID for whoever is no producer). No system call, no
 * allocation, no blocking. */
SSMD_API int ssmd_ring_claim(ssmd_ring *ring, uint64_t n, uint8_t **at);
SSMD_API void ssmd_ring_advance(ssmd_ring *ring, uint64_t n);
SSMD_API void ssmd_ring_publish(ssmd_ring *ring);

/* claim, copy, advance, publish. n must be a multiple of 8 (else SSMD_INVALID). */
SSMD_API int ssmd_ring_push(ssmd_ring *ring, const void *data, uint64_t n);

/* Consumer. peek gives all published bytes after the tail as one span (SSMD_OK or SSMD_EMPTY); release gives n of
 * them back (never more than the last peek gave). */
SSMD_API int ssmd_ring_peek(ssmd_ring *ring, const uint8_t **at, uint64_t *n);
SSMD_API void ssmd_ring_release(ssmd_ring *ring, uint64_t n);

/* Consumer. Sleeps for at most timeout_ns, or until woken. The producer wakes it with what it publishes from
 * `due_ticks` (ssmd_clock_ticks) on, or once SSMD_RING_WAKE_BYTES wait. due_ticks 0 = with the next record, and not at
 * all if something is there already. */
SSMD_API void ssmd_ring_sleep(ssmd_ring *ring, uint64_t due_ticks, uint64_t timeout_ns);

/* Ends a sleep of the consumer now. The producer's call after a publish (ssmd_ring_wake_inline says when). */
SSMD_API void ssmd_ring_wake(ssmd_ring *ring);

/* The commit line. Any role may read it (SSMD_EMPTY before the first commit, SSMD_DAMAGED if there was one and no slot
 * is whole); only the consumer stores. */
SSMD_API int ssmd_ring_commit_load(const ssmd_ring *ring, ssmd_commit *commit);
SSMD_API int ssmd_ring_commit_store(ssmd_ring *ring, ssmd_commit *commit); /* sets generation */

/* Where a new producer goes on: walks the records behind the commit. last_number = last number in use.
 * SSMD_DAMAGED if what stands in the ring is not a sequence of records. */
typedef struct ssmd_resume {
    uint64_t last_number;
    int64_t last_recv_ns;
    uint32_t max_connection;
    uint32_t clean; /* the last record is ConnectionEvent `stopped`, or there is none at all */
} ssmd_resume;
SSMD_API int ssmd_ring_resume(const ssmd_ring *ring, ssmd_resume *resume);

/* The clock line: the producer's anchor, so that others can turn its ticks into UTC. load: SSMD_EMPTY before the
 * first store. */
SSMD_API int ssmd_ring_clock_store(ssmd_ring *ring, const ssmd_clock_anchor *anchor);
SSMD_API int ssmd_ring_clock_load(const ssmd_ring *ring, ssmd_clock_anchor *anchor);

/* The status line: how the flusher fares. Counters run since the ring was made, over restarts of the flusher. Each
 * field is whole, but they are read one by one. */
typedef enum ssmd_flusher_state {
    SSMD_FLUSHER_NONE = 0, /* there never was one */
    SSMD_FLUSHER_STARTING = 1,
    SSMD_FLUSHER_RUNNING = 2,
    SSMD_FLUSHER_STALLED = 3, /* an operation fails: data stays in the ring, and it is tried again */
    SSMD_FLUSHER_STOPPED = 4  /* ended as asked */
} ssmd_flusher_state;

typedef struct ssmd_flusher_status {
    uint32_t state;         /* ssmd_flusher_state */
    int32_t status;         /* ssmd_status of the present error, 0 = none */
    int32_t sys_errno;      /* its errno, 0 = none */
    uint32_t what;          /* what fails: ssmd_flusher_what (segment.h), 0 = nothing */
    int64_t error_since_ns; /* UTC, 0 = no error */
    int64_t heartbeat_ns;   /* UTC of the last step */
    int64_t pid;            /* of the flusher, also after its end */
    uint64_t written_bytes; /* records and checkpoints */
    uint64_t written_records;
    uint64_t segments_sealed;
    uint64_t syncs;
    uint64_t longest_sync_ns;
    uint64_t errors; /* operations that failed, retries not counted */
    uint64_t losses; /* times that the folder or the open segment was deleted or replaced under the flusher ... */
    uint64_t lost_first, lost_last; /* ... and the records that the last time took out of the journal, 0 = none */
    int64_t lost_since_ns;          /* receive time of the first of them, 0 = none */
} ssmd_flusher_status;
SSMD_API int ssmd_ring_status(const ssmd_ring *ring, ssmd_flusher_status *status);
SSMD_API int ssmd_ring_status_store(ssmd_ring *ring, const ssmd_flusher_status *status); /* consumer */

#ifdef __cplusplus
}
#endif
#endif
