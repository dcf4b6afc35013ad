/* flusher.h - from the ring into segment files, exactly once.
 *
 * step() moves one span: peek, walk the records, cut the span where a segment ends, one write, commit line, release.
 *
 *     ring      |== span ==|.............|        1 write the span at `offset` of the segment
 *            tail                      head        2 commit line: position, segment, offset, CRC
 *     segment   ====...====|== span ==|            3 release the span in the ring
 *                       offset
 *
 * Killed before 2: the file is longer than the commit says, the next flusher cuts it and writes the span again.
 * Killed after 2: the span counts, the next flusher releases it. docs/flusher.md has the table of all crash points.
 *
 * A segment ends at multiples of rotate_minutes of UTC, where a day of the schedule ends, and at rotate_bytes, always
 * between two records; the record's receive time decides. A segment whose period is over is sealed a second later even
 * when nothing comes. Checkpoint and fdatasync come every sync_interval_ms or sync_bytes, never when idle.
 *
 * An operation that fails (full disk, I/O error) leaves the data in the ring; the state is STALLED, the status line
 * says what and why, and the next step tries again. Nothing is skipped.
 *
 * A folder or an open segment that is deleted, moved or replaced under the flusher is seen within a second or two: the
 * status line says which records went with it, one step fails, and the next goes on in a new segment, in a folder that
 * is made anew. Who feeds the ring is expected to put a record of that into it.
 *
 * Not for: compressing and uploading sealed segments, recovery of a journal without its ring (that is done from the
 * files, before the ring is made anew), more than one flusher to a journal (a lock in its folder sees to it).
 */
#ifndef SSMD_FLUSHER_H
#define SSMD_FLUSHER_H

#include "ring.h"
#include "segment.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SSMD_FLUSHER_STEP_BYTES (1024u * 1024u) /* a step writes about this much at most */

typedef struct ssmd_flusher ssmd_flusher;

typedef struct ssmd_flusher_options {
    const char *root;          /* the journal's folder; made if it is not there */
    uint64_t sync_interval_ms; /* a checkpoint and fdatasync this long after the first unsynced byte ... */
    uint64_t sync_bytes;       /* ... or after this many */
    uint64_t rotate_minutes;   /* 0 = only where a day ends */
    uint64_t rotate_bytes;     /* 0 = no limit */
    uint64_t nap_us;           /* run() writes what came within so long with one write: latency against wake-ups */
    /* Days of the schedule: day i (yyyymmdd) runs from start i to start i + 1; the last entry only ends the one
     * before. Outside the table, and without one, days are those of UTC. Copied. */
    const int64_t *day_start_ns;
    const uint32_t *day;
    uint64_t days;
    /* 1 = leave the open segment as it is and go on in a new one: the caller has recovered it from the file. */
    uint32_t forget_segment;
    uint32_t reserved;
    const ssmd_file_ops *ops; /* NULL = libc's */
} ssmd_flusher_options;

/* What ssmd_file_ops.passed is told. */
typedef enum ssmd_flusher_point {
    SSMD_POINT_WRITTEN = 0,   /* before the commit of a span */
    SSMD_POINT_COMMITTED = 1, /* before its release */
    SSMD_POINT_RELEASED = 2,
    SSMD_POINT_NAMED = 3,   /* a new segment is committed, its file not made yet */
    SSMD_POINT_DURABLE = 4, /* a checkpoint is on the disk, not committed yet */
    SSMD_POINT_SEALED = 5   /* renamed, not committed yet */
} ssmd_flusher_point;

/* Attaches to an existing ring as its consumer and brings the open segment to what was committed.
 * SSMD_BUSY: another flusher has the ring or the folder (pid in value, 0 = not known). SSMD_DAMAGED: the segment has
 * fewer bytes (value) than were committed (expected), or other ones; nothing was changed, see forget_segment. */
SSMD_API int ssmd_flusher_open(const char *ring_path, const ssmd_flusher_options *options, ssmd_flusher **flusher,
                               ssmd_error *error);
SSMD_API void ssmd_flusher_close(ssmd_flusher *flusher); /* leaves the files as they are; stops a running thread */

/* One flusher to a journal, whatever the rings: two would take each other's segments for their own. open takes this
 * lock; who mends the files of a journal without a ring takes it himself. It ends with the process, too. */
SSMD_API int ssmd_journal_lock(const char *root, int *lock, ssmd_error *error);
SSMD_API void ssmd_journal_unlock(int lock);

/* One bounded piece of work. SSMD_OK: wrote; SSMD_MORE: wrote, and more is waiting; SSMD_EMPTY: nothing to write;
 * negative: failed, nothing lost, call again later. */
SSMD_API int ssmd_flusher_step(ssmd_flusher *flusher);

/* Steps until the ring is empty or one fails: SSMD_OK or that failure. */
SSMD_API int ssmd_flusher_drain(ssmd_flusher *flusher);

/* Makes durable what was written, and seals the segment if asked. SSMD_OK or the failure; may be repeated. */
SSMD_API int ssmd_flusher_finish(ssmd_flusher *flusher, bool seal);

/* The failure of the last step, for an error message; SSMD_OK if it did not fail. */
SSMD_API int ssmd_flusher_fault(const ssmd_flusher *flusher, ssmd_error *error);

/* The status line of its ring. From any thread. */
SSMD_API void ssmd_flusher_status_load(const ssmd_flusher *flusher, ssmd_flusher_status *status);

typedef enum ssmd_flusher_stop_kind {
    SSMD_STOP_NOT = 0,
    SSMD_STOP_DRAIN = 1, /* write what is in the ring, make it durable, leave the segment open */
    SSMD_STOP_SEAL = 2,  /* the same, and seal it */
    SSMD_STOP_NOW = 3    /* after the step in hand; the ring keeps the rest */
} ssmd_flusher_stop_kind;

/* Steps and naps until asked to stop (the producer ends its naps: ring.h, "bell"); gives what the last step gave
 * (SSMD_OK: stopped as asked). */
SSMD_API int ssmd_flusher_run(ssmd_flusher *flusher);
SSMD_API void ssmd_flusher_request_stop(ssmd_flusher *flusher, int kind); /* from any thread; may be sharpened later */

/* run() on a thread of its own, with all signals blocked. While it lives, only request_stop, status_load, finished,
 * stop and join may be called. */
SSMD_API int ssmd_flusher_start(ssmd_flusher *flusher, ssmd_error *error);
SSMD_API bool ssmd_flusher_finished(const ssmd_flusher *flusher); /* true also if there is no thread */
SSMD_API int ssmd_flusher_stop(ssmd_flusher *flusher, int kind, uint64_t timeout_ms); /* SSMD_BUSY: not yet */
SSMD_API int ssmd_flusher_join(ssmd_flusher *flusher);                                /* gives what run gave */

#ifdef __cplusplus
}
#endif
#endif
