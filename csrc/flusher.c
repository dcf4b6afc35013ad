/* flusher.c - see flusher.h for the picture and the promises.
 *
 * All that must survive a kill stands in one ssmd_commit, which is stored whole after each thing that is done. The
 * order of doing and committing makes each crash point harmless:
 *
 *   new segment   commit its name, then create the file: a file that a commit names is ours to cut
 *   span          write, commit, release
 *   sync          write checkpoint, fdatasync, commit: of an uncommitted checkpoint the rest is done again
 *   seal          write final checkpoint, fdatasync, rename, sync folder, commit: likewise; a committed segment that
 *                 has only its sealed name is done
 *
 * Order within a step: a sync that is due, then a span, then the seal of a period that is over. What fails is repeated
 * before anything else: nothing is piled on bytes that a failed sync may have lost, and where a failed write may have
 * left whole records (somebody may have read them) the same records come again.
 */
#define _GNU_SOURCE
#include "flusher.h"
#include "error_internal.h"
#include "ring_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAY_NS INT64_C(86400000000000)
#define MINUTE_NS INT64_C(60000000000)
#define MILLISECOND_NS INT64_C(1000000)
#define SEAL_GRACE_NS INT64_C(1000000000)       /* records of a period may still come this long after its end */
#define CLOCK_SEAL_PAUSE_NS INT64_C(2000000000) /* stamps follow a stepped clock within 1 s (clock.c) */
#define RETRY_NAP_NS INT64_C(100000000)
#define LOOK_NS INT64_C(1000000000)    /* so often is looked whether the files are still where they were made */
#define IDLE_NAP_NS INT64_C(100000000) /* when nothing comes: the first record ends it */
#define LOCK_NAME ".flusher.lock"
#define MAX_DAYS 1000000u

/* The records were written on another core; where one ends is known only from its head, so the processor cannot guess
 * what will be read next. It is told: write and CRC want these lines as well. */
enum { CACHE_LINE_BYTES = 64, AHEAD_BYTES = 4096 };

struct ssmd_flusher {
    ssmd_ring *ring;
    ssmd_segment segment;
    ssmd_file_ops ops;
    ssmd_flusher_options options; /* root and days point into this struct's own copies */
    int64_t *day_start_ns;
    uint32_t *day;
    int lock_fd;
    int root_fd;           /* the folder that was opened */
    int64_t look_ns;       /* monotonic, when to look after it */
    int64_t clock_seal_ns; /* monotonic, not before this the clock alone may seal again */

    ssmd_commit commit;        /* as last stored */
    int64_t segment_end_ns;    /* a record received at or after this belongs to another segment */
    int64_t unsynced_since_ns; /* monotonic, of the first byte since the last sync */
    bool unsynced;
    bool sync_failed;  /* nothing is written before a sync succeeds */
    bool write_failed; /* records may stand beyond offset, and only they may stand there: no checkpoint now */

    ssmd_segment_fault fault; /* of the last step */
    ssmd_flusher_status status;

    uint64_t nap_ticks; /* options.nap_us in ticks of the clock */

    _Atomic int stop;
    _Atomic bool finished;
    bool threaded;
    pthread_t thread;
    int result; /* of run, on the thread */
};

static int64_t wall_ns(const ssmd_flusher *flusher)
{
    return flusher->ops.wall_ns(flusher->ops.context);
}

static int64_t monotonic_ns(const ssmd_flusher *flusher)
{
    return flusher->ops.monotonic_ns(flusher->ops.context);
}

static void passed(const ssmd_flusher *flusher, int point)
{
    if (flusher->ops.passed != NULL)
        flusher->ops.passed(flusher->ops.context, point);
}

/* ---- days and periods ---------------------------------------------------------------------- */

static int64_t floor_to(int64_t ns, int64_t unit)
{
    int64_t rest = ns % unit;
    return ns - rest - (rest < 0 ? unit : 0);
}

static uint32_t utc_day(int64_t ns)
{
    time_t seconds = (time_t)(floor_to(ns, DAY_NS) / 1000000000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    return (uint32_t)((utc.tm_year + 1900) * 10000 + (utc.tm_mon + 1) * 100 + utc.tm_mday);
}

/* The day that ns belongs to (yyyymmdd), and where that day ends. */
static uint32_t day_of(const ssmd_flusher *flusher, int64_t ns, int64_t *end_ns)
{
    const int64_t *starts = flusher->day_start_ns;
    uint64_t low = 0, high = flusher->options.days; /* starts[low] <= ns < starts[high] */
    if (high < 2 || ns < starts[0] || ns >= starts[high - 1]) {
        *end_ns = floor_to(ns, DAY_NS) + DAY_NS;
        return utc_day(ns);
    }
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (starts[middle] <= ns)
            low = middle;
        else
            high = middle;
    }
    *end_ns = starts[low + 1];
    return flusher->day[low];
}

static int64_t period_end(const ssmd_flusher *flusher, int64_t start_ns)
{
    int64_t end_ns;
    day_of(flusher, start_ns, &end_ns);
    if (flusher->options.rotate_minutes == 0)
        return end_ns;
    int64_t period_ns = (int64_t)flusher->options.rotate_minutes * MINUTE_NS;
    int64_t rotate_ns = floor_to(start_ns, period_ns) + period_ns;
    return rotate_ns < end_ns ? rotate_ns : end_ns;
}

/* ---- commit line ---------------------------------------------------------------------------- */

static void commit(ssmd_flusher *flusher)
{
    const ssmd_segment *segment = &flusher->segment;
    flusher->commit.segment_first = segment->first_number;
    flusher->commit.segment_start_ns = segment->start_ns;
    flusher->commit.segment_day = segment->day;
    flusher->commit.segment_offset = segment->offset;
    flusher->commit.segment_records = segment->records;
    flusher->commit.checkpoint_offset = segment->checkpoint_offset;
    flusher->commit.crc32c = segment->crc32c;
    ssmd_ring_commit_store(flusher->ring, &flusher->commit);
}

/* ---- sync and seal -------------------------------------------------------------------------- */

static ssmd_segment_mark mark_now(const ssmd_flusher *flusher, bool final)
{
    return (ssmd_segment_mark){flusher->commit.last_number, flusher->commit.last_recv_ns,
                               flusher->commit.max_connection, final};
}

static void count_sync(ssmd_flusher *flusher, int64_t began_ns)
{
    uint64_t took_ns = (uint64_t)(monotonic_ns(flusher) - began_ns);
    flusher->status.syncs++;
    flusher->status.written_bytes += SSMD_CHECKPOINT_BYTES;
    if (took_ns > flusher->status.longest_sync_ns)
        flusher->status.longest_sync_ns = took_ns;
    flusher->unsynced = flusher->sync_failed = false;
    flusher->commit.durable_number = flusher->commit.last_number;
}

static int sync_now(ssmd_flusher *flusher)
{
    ssmd_segment_mark mark = mark_now(flusher, false);
    int64_t began_ns = monotonic_ns(flusher);
    int status = ssmd_segment_sync(&flusher->segment, &mark, &flusher->fault);
    flusher->sync_failed = status != SSMD_OK;
    if (status != SSMD_OK)
        return status;
    passed(flusher, SSMD_POINT_DURABLE);
    count_sync(flusher, began_ns);
    commit(flusher);
    return SSMD_OK;
}

static int seal_now(ssmd_flusher *flusher)
{
    ssmd_segment_mark mark = mark_now(flusher, true);
    int64_t began_ns = monotonic_ns(flusher);
    int status = ssmd_segment_seal(&flusher->segment, &mark, &flusher->fault);
    if (status != SSMD_OK)
        return status;
    passed(flusher, SSMD_POINT_SEALED);
    count_sync(flusher, began_ns);
    flusher->status.segments_sealed++;
    flusher->segment_end_ns = INT64_MIN;
    commit(flusher);
    return SSMD_OK;
}

static bool sync_is_due(const ssmd_flusher *flusher)
{
    if (!flusher->unsynced || flusher->write_failed)
        return false;
    uint64_t bytes = flusher->segment.offset - flusher->segment.checkpoint_offset;
    int64_t age_ns = monotonic_ns(flusher) - flusher->unsynced_since_ns;
    return flusher->sync_failed || bytes >= flusher->options.sync_bytes ||
           age_ns >= (int64_t)flusher->options.sync_interval_ms * MILLISECOND_NS;
}

/* The period is over by the clock, though no record has said so. Once in a while: records that are stamped by a clock
 * from before a step forward would otherwise get a segment for each step. */
static bool seal_is_due(const ssmd_flusher *flusher)
{
    return flusher->segment.offset > 0 && wall_ns(flusher) - SEAL_GRACE_NS > flusher->segment_end_ns &&
           monotonic_ns(flusher) >= flusher->clock_seal_ns;
}

/* ---- one span ------------------------------------------------------------------------------- */

typedef struct span {
    uint64_t bytes;
    uint64_t records;
    uint64_t last; /* where the last record starts */
    uint32_t max_connection;
} span;

static int ring_damaged(ssmd_flusher *flusher)
{
    flusher->fault = (ssmd_segment_fault){SSMD_DAMAGED, 0, SSMD_WHAT_RING, (int64_t)ssmd_ring_tail(flusher->ring),
                                          (int64_t)ssmd_ring_head(flusher->ring)};
    return SSMD_DAMAGED;
}

/* The records at `at` that go into the open segment with one write; none if the first belongs to a new segment. */
static int measure(ssmd_flusher *flusher, const uint8_t *at, uint64_t n, span *found)
{
    uint64_t offset = flusher->segment.offset;
    uint64_t rotate_bytes = flusher->options.rotate_bytes == 0 ? UINT64_MAX : flusher->options.rotate_bytes;
    uint64_t called = 0;
    *found = (span){0, 0, 0, flusher->commit.max_connection};
    while (found->bytes < n && found->bytes < SSMD_FLUSHER_STEP_BYTES) {
        const uint8_t *record = at + found->bytes;
        for (; called < n && called < found->bytes + AHEAD_BYTES; called += CACHE_LINE_BYTES)
            __builtin_prefetch(at + called);
        uint64_t bytes = ssmd_record_bytes(record, n - found->bytes);
        if (bytes == 0)
            return found->bytes > 0 ? SSMD_OK : ring_damaged(flusher); /* what is before it is good */
        uint64_t filled = offset + found->bytes;
        if ((int64_t)ssmd_load_u64(record + SSMD_RECORD_RECV_NS) >= flusher->segment_end_ns ||
            (filled > 0 && filled + bytes > rotate_bytes))
            break;
        uint32_t connection = ssmd_load_u32(record + SSMD_RECORD_CONNECTION);
        if (connection > found->max_connection)
            found->max_connection = connection;
        found->last = found->bytes;
        found->bytes += bytes;
        found->records++;
    }
    return SSMD_OK;
}

/* Seals what is open, then opens the segment that begins with this record. */
static int rotate(ssmd_flusher *flusher, const uint8_t *record)
{
    int64_t recv_ns = (int64_t)ssmd_load_u64(record + SSMD_RECORD_RECV_NS), end_ns;
    ssmd_segment *segment = &flusher->segment;
    int status;
    if (segment->offset > 0) {
        status = seal_now(flusher);
        if (status != SSMD_OK)
            return status;
    }
    if (segment->day == 0) {
        uint64_t number = ssmd_load_u64(record + SSMD_RECORD_NUMBER);
        status = ssmd_segment_begin(segment, day_of(flusher, recv_ns, &end_ns), recv_ns, number, &flusher->fault);
        if (status != SSMD_OK)
            return status;
        commit(flusher);
        passed(flusher, SSMD_POINT_NAMED);
    }
    if (segment->fd < 0) {
        status = ssmd_segment_create(segment, &flusher->fault);
        if (status != SSMD_OK)
            return status;
    }
    flusher->segment_end_ns = period_end(flusher, segment->start_ns);
    return SSMD_OK;
}

static int write_span(ssmd_flusher *flusher, const uint8_t *at, const span *found)
{
    int status = ssmd_segment_append(&flusher->segment, at, found->bytes, found->records, &flusher->fault);
    flusher->write_failed = status != SSMD_OK;
    if (status != SSMD_OK)
        return status;
    const uint8_t *last = at + found->last;
    flusher->commit.position += found->bytes;
    flusher->commit.last_number = ssmd_load_u64(last + SSMD_RECORD_NUMBER);
    flusher->commit.last_recv_ns = (int64_t)ssmd_load_u64(last + SSMD_RECORD_RECV_NS);
    flusher->commit.max_connection = found->max_connection;
    flusher->commit.clean = ssmd_record_is_stopped(last, found->bytes - found->last);
    passed(flusher, SSMD_POINT_WRITTEN);
    commit(flusher);
    passed(flusher, SSMD_POINT_COMMITTED);
    ssmd_ring_release_inline(flusher->ring, found->bytes);
    passed(flusher, SSMD_POINT_RELEASED);
    flusher->status.written_bytes += found->bytes;
    flusher->status.written_records += found->records;
    if (!flusher->unsynced) {
        flusher->unsynced = true;
        flusher->unsynced_since_ns = monotonic_ns(flusher);
    }
    return SSMD_OK;
}

/* Moves one span, opening and sealing segments as its records ask for. */
static int move(ssmd_flusher *flusher)
{
    const uint8_t *at;
    uint64_t n;
    span found;
    if (ssmd_ring_peek_inline(flusher->ring, &at, &n) == SSMD_EMPTY)
        return SSMD_EMPTY;
    if (n > ssmd_ring_capacity(flusher->ring))
        return ring_damaged(flusher);
    int status = measure(flusher, at, n, &found);
    if (status == SSMD_OK && found.bytes == 0) {
        status = rotate(flusher, at);
        if (status == SSMD_OK)
            status = measure(flusher, at, n, &found);
    }
    if (status == SSMD_OK)
        status = write_span(flusher, at, &found);
    if (status != SSMD_OK)
        return status;
    /* After a span that filled much of the ring more has come by now: no time for a nap. */
    return found.bytes < n || n > ssmd_ring_capacity(flusher->ring) / 4 ? SSMD_MORE : SSMD_OK;
}

/* ---- what somebody does to the files meanwhile ------------------------------------------------- */

/* Takes the folder that has the root's name now; makes it where there is none. */
static int take_root(ssmd_flusher *flusher)
{
    ssmd_error error = {0};
    int lock;
    int status = ssmd_journal_lock(flusher->segment.root, &lock, &error);
    if (status != SSMD_OK) {
        uint32_t what = status == SSMD_BUSY ? SSMD_WHAT_LOCK : SSMD_WHAT_FOLDER;
        flusher->fault = (ssmd_segment_fault){status, error.sys_errno, what, error.value, 0};
        flusher->look_ns = INT64_MIN;
        return status;
    }
    ssmd_journal_unlock(flusher->lock_fd);
    flusher->lock_fd = lock;
    if (flusher->root_fd >= 0)
        close(flusher->root_fd);
    flusher->root_fd = open(flusher->segment.root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return SSMD_OK;
}

static void lose(ssmd_flusher *flusher, bool segment_gone)
{
    ssmd_segment *segment = &flusher->segment;
    ssmd_flusher_status *line = &flusher->status;
    line->losses++;
    line->lost_first = line->lost_last = 0;
    line->lost_since_ns = 0;
    if (segment_gone && segment->records > 0) {
        line->lost_first = segment->first_number;
        line->lost_last = flusher->commit.last_number;
        line->lost_since_ns = segment->start_ns;
    }
    flusher->fault =
        (ssmd_segment_fault){SSMD_DAMAGED, 0, SSMD_WHAT_GONE, segment_gone ? (int64_t)segment->records : 0, 0};
    if (segment_gone) {
        ssmd_segment_mark mark = mark_now(flusher, true);
        ssmd_segment_abandon(segment, &mark);
        flusher->unsynced = flusher->sync_failed = flusher->write_failed = false;
        flusher->segment_end_ns = INT64_MIN;
    }
    flusher->commit.clean = 0; /* until a later record says otherwise: if none comes, the next run must tell */
    commit(flusher);
}

/* Is all still where it was made? If not, that is told by one failed step, and the next one goes on in a new segment,
 * in a folder that is made anew. */
static int look(ssmd_flusher *flusher)
{
    const ssmd_file_ops *ops = &flusher->ops;
    char path[SSMD_PATH_BYTES];
    flusher->look_ns = monotonic_ns(flusher) + LOOK_NS;
    bool segment_gone = ssmd_segment_is_gone(&flusher->segment);
    bool root_gone =
        flusher->root_fd >= 0 && ops->same_file(ops->context, flusher->root_fd, flusher->segment.root) == 0;
    if (segment_gone || root_gone)
        lose(flusher, segment_gone);
    snprintf(path, sizeof(path), "%s/" LOCK_NAME, flusher->segment.root);
    if (root_gone || ops->same_file(ops->context, flusher->lock_fd, path) == 0) {
        ssmd_segment_fault gone = flusher->fault;
        int status = take_root(flusher);
        if (status != SSMD_OK)
            return status;
        flusher->fault = gone;
    }
    return segment_gone || root_gone ? SSMD_DAMAGED : SSMD_OK;
}

/* ---- a step and its report ------------------------------------------------------------------ */

static int work(ssmd_flusher *flusher)
{
    int status = monotonic_ns(flusher) >= flusher->look_ns ? look(flusher) : SSMD_OK;
    if (status != SSMD_OK)
        return status;
    if (flusher->segment.sealing) /* a seal that failed on its way: nothing else may follow in that file */
        status = seal_now(flusher);
    else if (sync_is_due(flusher))
        status = sync_now(flusher);
    if (status != SSMD_OK)
        return status;
    status = move(flusher);
    if (status == SSMD_EMPTY && seal_is_due(flusher)) {
        int sealed = seal_now(flusher);
        flusher->clock_seal_ns = monotonic_ns(flusher) + CLOCK_SEAL_PAUSE_NS;
        return sealed == SSMD_OK ? SSMD_EMPTY : sealed;
    }
    return status;
}

static void report(ssmd_flusher *flusher, int status)
{
    ssmd_flusher_status *line = &flusher->status;
    line->heartbeat_ns = wall_ns(flusher);
    if (status >= 0) {
        line->state = SSMD_FLUSHER_RUNNING;
        line->status = line->sys_errno = 0;
        line->what = SSMD_WHAT_NOTHING;
        line->error_since_ns = 0;
    } else {
        if (line->state != SSMD_FLUSHER_STALLED) {
            line->error_since_ns = line->heartbeat_ns;
            line->errors++;
        }
        line->state = SSMD_FLUSHER_STALLED;
        line->status = flusher->fault.status;
        line->sys_errno = flusher->fault.sys_errno;
        line->what = flusher->fault.what;
        if (flusher->fault.sys_errno == ENOENT)
            flusher->look_ns = INT64_MIN; /* what is it that is not there? */
    }
    ssmd_ring_status_store(flusher->ring, line);
}

int ssmd_flusher_step(ssmd_flusher *flusher)
{
    int status = work(flusher);
    report(flusher, status);
    return status;
}

int ssmd_flusher_drain(ssmd_flusher *flusher)
{
    int status;
    do
        status = ssmd_flusher_step(flusher);
    while (status == SSMD_OK || status == SSMD_MORE);
    return status == SSMD_EMPTY ? SSMD_OK : status;
}

static int finish(ssmd_flusher *flusher, bool seal)
{
    int looked = monotonic_ns(flusher) >= flusher->look_ns ? look(flusher) : SSMD_OK;
    if (looked != SSMD_OK)
        return looked;
    if (flusher->sync_failed) { /* its checkpoint may stand in the file, and is to stay there */
        int status = sync_now(flusher);
        if (status != SSMD_OK)
            return status;
    }
    if (flusher->segment.sealing || (seal && flusher->segment.offset > 0))
        return seal_now(flusher);
    return flusher->unsynced ? sync_now(flusher) : SSMD_OK;
}

int ssmd_flusher_finish(ssmd_flusher *flusher, bool seal)
{
    int status = finish(flusher, seal);
    report(flusher, status);
    return status;
}

void ssmd_flusher_status_load(const ssmd_flusher *flusher, ssmd_flusher_status *status)
{
    ssmd_ring_status(flusher->ring, status);
}

int ssmd_flusher_fault(const ssmd_flusher *flusher, ssmd_error *error)
{
    const ssmd_segment_fault *fault = &flusher->fault;
    if (flusher->status.status == SSMD_OK)
        return ssmd_error_set(error, SSMD_OK, 0, 0, 0, "");
    return ssmd_error_set(error, fault->status, fault->sys_errno, fault->value, fault->expected,
                          ssmd_flusher_what_text(fault->what));
}

/* ---- run ------------------------------------------------------------------------------------ */

/* When the next sync has to be made at the latest, IDLE_NAP_NS if that is far. */
static int64_t idle_ns(const ssmd_flusher *flusher)
{
    if (!flusher->unsynced)
        return IDLE_NAP_NS;
    int64_t due_ns = flusher->unsynced_since_ns + (int64_t)flusher->options.sync_interval_ms * MILLISECOND_NS;
    int64_t left_ns = due_ns - monotonic_ns(flusher);
    return left_ns < 0 ? 0 : left_ns < IDLE_NAP_NS ? left_ns : IDLE_NAP_NS;
}

/* The pause between two steps, which decides between wake-ups and latency.
 *
 *     wrote something     the producer ends the nap with the first record that comes nap_us after the last write: it is
 *                         awake then anyhow, so no timer has to fire; the timer is for when no more records come
 *     that nap was idle   the next record ends it
 *     a step failed       a while, whatever comes
 */
static void nap(ssmd_flusher *flusher, int status)
{
    int64_t nap_ns = (int64_t)flusher->options.nap_us * 1000;
    if (status == SSMD_MORE)
        return;
    if (status < 0) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){0, RETRY_NAP_NS}, NULL);
        return;
    }
    if (status == SSMD_EMPTY)
        ssmd_ring_sleep(flusher->ring, 0, (uint64_t)idle_ns(flusher));
    else
        ssmd_ring_sleep(flusher->ring, ssmd_clock_ticks() + flusher->nap_ticks, (uint64_t)(nap_ns + nap_ns / 2));
}

/* One turn of run(); true when it is over. The head as it was when the stop was seen is the end of the draining. */
static bool turn(ssmd_flusher *flusher, int stop, uint64_t end, int *status)
{
    if (stop == SSMD_STOP_NOW)
        return true;
    if (stop != SSMD_STOP_NOT && ssmd_ring_tail(flusher->ring) >= end) {
        *status = ssmd_flusher_finish(flusher, stop == SSMD_STOP_SEAL);
        return *status == SSMD_OK;
    }
    *status = ssmd_flusher_step(flusher);
    return false;
}

int ssmd_flusher_run(ssmd_flusher *flusher)
{
    int status = SSMD_OK;
    uint64_t end = UINT64_MAX;
    ssmd_clock_anchor anchor;
    ssmd_clock_anchor_current(&anchor);
    flusher->nap_ticks = (flusher->options.nap_us * 1000 << 20) / (anchor.ns_per_tick_q32 >> 12);
    for (;;) {
        int stop = atomic_load_explicit(&flusher->stop, memory_order_acquire);
        if (stop != SSMD_STOP_NOT && end == UINT64_MAX)
            end = ssmd_ring_head(flusher->ring);
        if (turn(flusher, stop, end, &status))
            break;
        nap(flusher, stop != SSMD_STOP_NOT && status >= 0 ? SSMD_MORE : status);
    }
    flusher->status.state = SSMD_FLUSHER_STOPPED;
    ssmd_ring_status_store(flusher->ring, &flusher->status);
    return status < 0 ? status : SSMD_OK;
}

void ssmd_flusher_request_stop(ssmd_flusher *flusher, int kind)
{
    /* Release, partner: the load in run. What the caller published before asking is drained. */
    atomic_store_explicit(&flusher->stop, kind, memory_order_release);
    ssmd_ring_wake(flusher->ring);
}

static void *thread_main(void *argument)
{
    ssmd_flusher *flusher = argument;
    prctl(PR_SET_NAME, "ssmd-flusher");
    prctl(PR_SET_TIMERSLACK, 1000ul); /* ns; the usual 50 us would double a nap of 50 */
    flusher->result = ssmd_flusher_run(flusher);
    /* Release, partner: finished(). The result is there. */
    atomic_store_explicit(&flusher->finished, true, memory_order_release);
    return NULL;
}

int ssmd_flusher_start(ssmd_flusher *flusher, ssmd_error *error)
{
    sigset_t all, before;
    if (flusher->threaded)
        return ssmd_error_set(error, SSMD_INVALID, 0, 0, 0, "start twice");
    atomic_store_explicit(&flusher->finished, false, memory_order_relaxed);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the new thread inherits it: signals go to the others */
    int code = pthread_create(&flusher->thread, NULL, thread_main, flusher);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    flusher->threaded = code == 0;
    if (code != 0) {
        atomic_store_explicit(&flusher->finished, true, memory_order_relaxed);
        return ssmd_error_set(error, SSMD_IO, code, 0, 0, "start thread");
    }
    return SSMD_OK;
}

bool ssmd_flusher_finished(const ssmd_flusher *flusher)
{
    /* Acquire, partner: thread_main. */
    return atomic_load_explicit(&flusher->finished, memory_order_acquire);
}

int ssmd_flusher_stop(ssmd_flusher *flusher, int kind, uint64_t timeout_ms)
{
    int64_t end_ns = ssmd_clock_monotonic_ns() + (int64_t)timeout_ms * MILLISECOND_NS;
    ssmd_flusher_request_stop(flusher, kind);
    while (!ssmd_flusher_finished(flusher)) {
        if (ssmd_clock_monotonic_ns() >= end_ns)
            return SSMD_BUSY;
        nanosleep(&(struct timespec){0, MILLISECOND_NS}, NULL);
    }
    return ssmd_flusher_join(flusher);
}

int ssmd_flusher_join(ssmd_flusher *flusher)
{
    if (flusher->threaded)
        pthread_join(flusher->thread, NULL);
    flusher->threaded = false;
    return flusher->result;
}

/* ---- open ------------------------------------------------------------------------------------ */

static int open_error(ssmd_error *error, const ssmd_segment_fault *fault)
{
    return ssmd_error_set(error, fault->status, fault->sys_errno, fault->value, fault->expected,
                          ssmd_flusher_what_text(fault->what));
}

static int io_error(ssmd_error *error, uint32_t what)
{
    return ssmd_error_set(error, SSMD_IO, errno, 0, 0, ssmd_flusher_what_text(what));
}

static int sync_parent(char *path) /* `path` is cut at its last slash and mended again */
{
    char *slash = strrchr(path, '/');
    const char *parent = slash == NULL ? "." : slash == path ? "/" : path;
    if (slash != NULL && slash != path)
        *slash = '\0';
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (slash != NULL && slash != path)
        *slash = '/';
    int code = fd < 0 ? -1 : fsync(fd);
    if (fd >= 0)
        close(fd);
    return code;
}

/* Makes the root and what leads to it; each new name is on the disk before it is used. */
static int make_root(char *path)
{
    for (char *at = path + (*path == '/');; at++) {
        if (*at != '/' && *at != '\0')
            continue;
        char end = *at;
        *at = '\0';
        int code = mkdir(path, 0750);
        if (code == 0)
            code = sync_parent(path);
        else if (errno == EEXIST || errno == EISDIR || errno == EROFS)
            code = 0; /* if it is no folder, the lock file says so */
        *at = end;
        if (code != 0 || end == '\0')
            return code;
    }
}

/* Takes the lock of the open file, or says who has it. Whose it is stands in it for the error message only. */
static int lock_file(int fd, ssmd_error *error)
{
    char text[32] = "";
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &whole) == 0) {
        int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
        ssize_t written = ftruncate(fd, 0) == 0 ? pwrite(fd, text, (size_t)n, 0) : 0;
        (void)written; /* not on a full disk: the lock holds all the same */
        return SSMD_OK;
    }
    if (errno != EAGAIN && errno != EACCES)
        return io_error(error, SSMD_WHAT_LOCK);
    ssize_t got = pread(fd, text, sizeof(text) - 1, 0);
    return ssmd_error_set(error, SSMD_BUSY, 0, got > 0 ? strtoll(text, NULL, 10) : 0, 0,
                          ssmd_flusher_what_text(SSMD_WHAT_LOCK));
}

int ssmd_journal_lock(const char *root, int *lock, ssmd_error *error)
{
    char path[SSMD_PATH_BYTES];
    *lock = -1;
    int n = snprintf(path, sizeof(path), "%s", root);
    if (n <= 0 || (size_t)n >= sizeof(path) - sizeof(LOCK_NAME) - 1)
        return ssmd_error_set(error, SSMD_IO, n <= 0 ? EINVAL : ENAMETOOLONG, 0, 0, "data folder");
    if (make_root(path) != 0)
        return io_error(error, SSMD_WHAT_FOLDER);
    memcpy(path + n, "/" LOCK_NAME, sizeof("/" LOCK_NAME));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0)
        return io_error(error, SSMD_WHAT_LOCK);
    int status = lock_file(fd, error);
    if (status == SSMD_OK)
        *lock = fd;
    else
        close(fd);
    return status;
}

void ssmd_journal_unlock(int lock)
{
    if (lock >= 0)
        close(lock);
}

static int copy_options(ssmd_flusher *flusher, const ssmd_flusher_options *options, ssmd_error *error)
{
    flusher->options = *options;
    flusher->ops = options->ops == NULL ? ssmd_file_ops_libc : *options->ops;
    flusher->options.ops = &flusher->ops;
    flusher->options.root = NULL; /* the segment has its own copy */
    if (options->root == NULL || options->days > MAX_DAYS || options->rotate_minutes > 1440u * 366u ||
        options->sync_interval_ms > 86400000u || options->nap_us > 60000000u)
        return ssmd_error_set(error, SSMD_INVALID, 0, 0, 0, "options");
    flusher->day_start_ns = calloc(options->days + 1, sizeof(*flusher->day_start_ns));
    flusher->day = calloc(options->days + 1, sizeof(*flusher->day));
    if (flusher->day_start_ns == NULL || flusher->day == NULL)
        return ssmd_error_set(error, SSMD_NO_MEMORY, 0, 0, 0, "days");
    if (options->days > 0) {
        memcpy(flusher->day_start_ns, options->day_start_ns, options->days * sizeof(*flusher->day_start_ns));
        memcpy(flusher->day, options->day, options->days * sizeof(*flusher->day));
    }
    flusher->options.day_start_ns = flusher->day_start_ns;
    flusher->options.day = flusher->day;
    for (uint64_t i = 1; i < options->days; i++)
        if (flusher->day_start_ns[i] <= flusher->day_start_ns[i - 1])
            return ssmd_error_set(error, SSMD_INVALID, 0, (int64_t)i, 0, "days must rise");
    int status = ssmd_segment_init(&flusher->segment, options->root, &flusher->ops);
    return status == SSMD_OK ? SSMD_OK : ssmd_error_set(error, status, 0, 0, 0, "data folder");
}

/* Brings ring and segment to what the commit line says. */
static int recover(ssmd_flusher *flusher, ssmd_error *error)
{
    ssmd_segment *segment = &flusher->segment;
    int loaded = ssmd_ring_commit_load(flusher->ring, &flusher->commit);
    if (loaded == SSMD_DAMAGED)
        return ssmd_error_set(error, SSMD_DAMAGED, 0, 0, 0, "commit line of the ring");
    if (loaded == SSMD_EMPTY) {
        flusher->commit.position = ssmd_ring_tail(flusher->ring);
        flusher->commit.clean = 1; /* a journal without records ended well */
    }
    uint64_t tail = ssmd_ring_tail(flusher->ring), head = ssmd_ring_head(flusher->ring);
    if (flusher->commit.position < tail || flusher->commit.position > head)
        return ssmd_error_set(error, SSMD_DAMAGED, 0, (int64_t)flusher->commit.position, (int64_t)tail,
                              "committed position in the ring");
    segment->day = flusher->commit.segment_day;
    if (segment->day != 0 && !flusher->options.forget_segment) {
        segment->first_number = flusher->commit.segment_first;
        segment->start_ns = flusher->commit.segment_start_ns;
        segment->offset = flusher->commit.segment_offset;
        segment->records = flusher->commit.segment_records;
        segment->checkpoint_offset = flusher->commit.checkpoint_offset;
        segment->crc32c = flusher->commit.crc32c;
        ssmd_segment_mark mark = mark_now(flusher, false);
        int status = ssmd_segment_reopen(segment, &mark, &flusher->fault);
        if (status < 0)
            return open_error(error, &flusher->fault);
        flusher->status.segments_sealed += status == SSMD_EMPTY;
        if (segment->offset == segment->checkpoint_offset) /* sealed, or synced to its end: all is on the disk */
            flusher->commit.durable_number = flusher->commit.last_number;
    } else {
        segment->day = 0;
    }
    flusher->segment_end_ns = segment->day == 0 ? INT64_MIN : period_end(flusher, segment->start_ns);
    flusher->unsynced = segment->offset > segment->checkpoint_offset;
    flusher->unsynced_since_ns = monotonic_ns(flusher);
    commit(flusher);
    ssmd_ring_release_inline(flusher->ring, flusher->commit.position - tail);
    return SSMD_OK;
}

static int open_parts(ssmd_flusher *flusher, const char *ring_path, const ssmd_flusher_options *options,
                      ssmd_error *error)
{
    int status = copy_options(flusher, options, error);
    if (status == SSMD_OK)
        status = ssmd_ring_attach(ring_path, 0, SSMD_CONSUMER, &flusher->ring, error);
    if (status == SSMD_OK)
        status = ssmd_journal_lock(options->root, &flusher->lock_fd, error);
    if (status != SSMD_OK)
        return status;
    ssmd_ring_status(flusher->ring, &flusher->status);
    flusher->status.state = SSMD_FLUSHER_STARTING;
    flusher->status.pid = getpid();
    flusher->status.heartbeat_ns = wall_ns(flusher);
    flusher->status.status = flusher->status.sys_errno = 0;
    flusher->status.what = SSMD_WHAT_NOTHING;
    flusher->status.error_since_ns = 0;
    flusher->root_fd = open(options->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    flusher->look_ns = monotonic_ns(flusher) + LOOK_NS;
    status = recover(flusher, error);
    if (status != SSMD_OK) {
        report(flusher, status);
        return status;
    }
    ssmd_ring_status_store(flusher->ring, &flusher->status);
    return SSMD_OK;
}

int ssmd_flusher_open(const char *ring_path, const ssmd_flusher_options *options, ssmd_flusher **result,
                      ssmd_error *error)
{
    *result = NULL;
    ssmd_flusher *flusher = calloc(1, sizeof(*flusher));
    if (flusher == NULL)
        return ssmd_error_set(error, SSMD_NO_MEMORY, 0, 0, 0, "flusher");
    flusher->lock_fd = flusher->root_fd = -1;
    flusher->segment.fd = -1;
    atomic_store_explicit(&flusher->finished, true, memory_order_relaxed);
    int status = open_parts(flusher, ring_path, options, error);
    if (status == SSMD_OK)
        *result = flusher;
    else
        ssmd_flusher_close(flusher);
    return status;
}

void ssmd_flusher_close(ssmd_flusher *flusher)
{
    if (flusher == NULL)
        return;
    if (flusher->threaded) {
        ssmd_flusher_request_stop(flusher, SSMD_STOP_NOW);
        ssmd_flusher_join(flusher);
    }
    if (flusher->status.state == SSMD_FLUSHER_STARTING || flusher->status.state == SSMD_FLUSHER_RUNNING) {
        flusher->status.state = SSMD_FLUSHER_STOPPED;
        ssmd_ring_status_store(flusher->ring, &flusher->status);
    }
    if (flusher->segment.ops != NULL)
        ssmd_segment_free(&flusher->segment);
    ssmd_ring_close(flusher->ring);
    ssmd_journal_unlock(flusher->lock_fd);
    if (flusher->root_fd >= 0)
        close(flusher->root_fd);
    free(flusher->day_start_ns);
    free(flusher->day);
    free(flusher);
}
