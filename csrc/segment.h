/* segment.h - one segment file being written: names, bytes, checkpoints, sealing.
 *
 *   {root}/{YYYY-MM-DD}/{YYYYMMDDTHHMMSSZ}-{first number, 12 digits}.capnp.open
 *
 *   | record | record | ... | checkpoint | record | ... | checkpoint | record ...    | garbage?
 *   0                         \_ CRC-32C of everything since the one before   offset ^
 *
 * A segment is records one after the other; the flusher adds a Checkpoint record before each sync. `offset` is what
 * counts: bytes beyond it (a write that failed half way, a checkpoint whose sync failed) are cut before anything else
 * is written. Sealing writes the final checkpoint, syncs, renames `.capnp.open` to `.capnp` and syncs the folder.
 *
 * Not for: deciding when (flusher.h), reading (walk.h), knowing the ring.
 * Invariants: no file is ever overwritten or cut below `offset`; files are created with O_EXCL, and a name that exists
 * in any form is an error. A whole record that stood in a file stays there: bytes that are cut are written again the
 * same, so that whoever reads along is never led astray by a crash.
 */
#ifndef SSMD_SEGMENT_H
#define SSMD_SEGMENT_H

#include "ssmd.h"

#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SSMD_CHECKPOINT_BYTES 136u
#define SSMD_PATH_BYTES 4096u

/* What was being done when something failed. */
typedef enum ssmd_flusher_what {
    SSMD_WHAT_NOTHING = 0,
    SSMD_WHAT_FOLDER = 1, /* making a folder */
    SSMD_WHAT_CREATE = 2,
    SSMD_WHAT_OPEN = 3,
    SSMD_WHAT_READ = 4,
    SSMD_WHAT_WRITE = 5,
    SSMD_WHAT_CUT = 6,
    SSMD_WHAT_SYNC = 7,
    SSMD_WHAT_SYNC_FOLDER = 8,
    SSMD_WHAT_SEAL = 9,    /* the rename */
    SSMD_WHAT_RING = 10,   /* the ring does not hold whole records */
    SSMD_WHAT_LENGTH = 11, /* the segment is shorter than what was committed (0 bytes: it is gone) */
    SSMD_WHAT_CRC = 12,    /* the segment holds other bytes than were committed */
    SSMD_WHAT_LOCK = 13,   /* the data folder belongs to another flusher */
    SSMD_WHAT_GONE = 14,   /* the folder or the open segment was deleted or replaced; `value` records went with it */
    SSMD_WHAT_COUNT = 15
} ssmd_flusher_what;
SSMD_API const char *ssmd_flusher_what_text(uint32_t what);

typedef struct ssmd_segment_fault {
    int32_t status;    /* ssmd_status */
    int32_t sys_errno; /* for SSMD_IO */
    uint32_t what;     /* ssmd_flusher_what */
    int64_t value, expected;
} ssmd_segment_fault;

/* Every call on a file, and the clocks, can be told to fail. Results as the system calls', but -errno for -1. */
typedef struct ssmd_file_ops {
    void *context; /* first argument of each */
    int (*open)(void *context, const char *path, int flags, unsigned mode);
    int (*close)(void *context, int fd);
    int64_t (*pwrite)(void *context, int fd, const void *data, size_t n, int64_t offset);
    int64_t (*pread)(void *context, int fd, void *data, size_t n, int64_t offset);
    int (*truncate)(void *context, int fd, int64_t length);
    int64_t (*size)(void *context, const char *path);          /* of a file, by name */
    int (*same_file)(void *context, int fd, const char *path); /* 1 = the path names this file, 0 = it does not */
    int (*sync_data)(void *context, int fd);                   /* fdatasync */
    int (*sync)(void *context, int fd);                        /* fsync, of folders */
    int (*rename)(void *context, const char *from, const char *to);
    int (*make_folder)(void *context, const char *path);
    int64_t (*wall_ns)(void *context);
    int64_t (*monotonic_ns)(void *context);
    void (*passed)(void *context,
                   int point); /* NULL, or told of the steps between file calls: ssmd_flusher_point (flusher.h) */
    int (*reserve)(void *context, int fd, int64_t offset, int64_t n); /* fallocate that keeps the size */
    uint64_t reserve_bytes; /* so much at once, once a segment has as much; 0 = never */
} ssmd_file_ops;
SSMD_API extern const ssmd_file_ops ssmd_file_ops_libc;

typedef enum ssmd_segment_form {
    SSMD_SEGMENT_OPEN = 0,
    SSMD_SEGMENT_SEALED = 1,
    SSMD_SEGMENT_ZST = 2
} ssmd_segment_form;

typedef struct ssmd_segment {
    const ssmd_file_ops *ops;
    char root[SSMD_PATH_BYTES / 2];
    uint8_t *buffer; /* for reading back */
    int fd;          /* -1 = the file is not open */

    /* identity: the name is made of these */
    uint64_t first_number;
    int64_t start_ns;
    uint32_t day; /* yyyymmdd, 0 = no segment */

    /* content */
    uint64_t offset; /* bytes that count */
    uint64_t records;
    uint64_t checkpoint_offset; /* end of the last checkpoint; all before it is on the disk */
    uint32_t crc32c;            /* of the bytes from there to offset */
    uint64_t reserved;          /* blocks may be set aside up to here; 0 = none of ours */

    /* what is still to be done */
    bool overhang;     /* there may be bytes beyond offset */
    bool suspect;      /* a sync failed: the kernel may have dropped what was written since checkpoint_offset */
    bool root_dirty;   /* the day's folder may not be on the disk */
    bool folder_dirty; /* the file's name may not be on the disk */
    bool sealing;      /* a final checkpoint may stand in the file: nothing may follow but the rest of the seal */
    bool renamed;      /* sealing got as far as the new name */
} ssmd_segment;

/* What a checkpoint says about the journal. */
typedef struct ssmd_segment_mark {
    uint64_t last_number;
    int64_t last_recv_ns;
    uint32_t max_connection;
    bool final;
} ssmd_segment_mark;

/* The one function that owns the names of segment files. Gives SSMD_TOO_LARGE if `size` does not do. */
SSMD_API int ssmd_segment_path(const char *root, uint32_t day, int64_t start_ns, uint64_t first_number, int form,
                               char *path, size_t size);

SSMD_API int ssmd_segment_init(ssmd_segment *segment, const char *root, const ssmd_file_ops *ops);
SSMD_API void ssmd_segment_free(ssmd_segment *segment); /* closes; the file stays as it is */

/* A new segment in two steps, so that its name can be committed in between. begin makes the folder and refuses a
 * name that exists in any form; create makes the file and may be repeated. */
SSMD_API int ssmd_segment_begin(ssmd_segment *segment, uint32_t day, int64_t start_ns, uint64_t first_number,
                                ssmd_segment_fault *fault);
SSMD_API int ssmd_segment_create(ssmd_segment *segment, ssmd_segment_fault *fault);

/* Opens the segment that identity and content name, cuts it to offset and checks its CRC since the last checkpoint. A
 * checkpoint that says what `mark` says and was not committed any more is kept: the sync, or the seal, is finished.
 * SSMD_OK; SSMD_EMPTY if it is sealed now (identity is cleared); SSMD_DAMAGED if it has fewer or other bytes. */
SSMD_API int ssmd_segment_reopen(ssmd_segment *segment, const ssmd_segment_mark *mark, ssmd_segment_fault *fault);

/* Somebody deleted, moved or replaced the file (or, before it is made, its folder): what is written cannot be found. */
SSMD_API bool ssmd_segment_is_gone(const ssmd_segment *segment);

/* Leaves such a file: with a final checkpoint on the disk if that can be had (it may have been moved, and come back).
 * Clears identity and content. */
SSMD_API void ssmd_segment_abandon(ssmd_segment *segment, const ssmd_segment_mark *checkpoint);

SSMD_API int ssmd_segment_append(ssmd_segment *segment, const uint8_t *data, uint64_t n, uint64_t records,
                                 ssmd_segment_fault *fault);

/* Checkpoint and fdatasync. On SSMD_OK the checkpoint counts (offset is behind it); on failure nothing has changed and
 * the call may be repeated: bytes that a failed sync may have lost are then written again from what can be read. */
SSMD_API int ssmd_segment_sync(ssmd_segment *segment, const ssmd_segment_mark *checkpoint, ssmd_segment_fault *fault);

/* Final checkpoint, fdatasync, the sealed name, fsync of the folder. May be repeated. Clears identity and content. */
SSMD_API int ssmd_segment_seal(ssmd_segment *segment, const ssmd_segment_mark *checkpoint, ssmd_segment_fault *fault);

#ifdef __cplusplus
}
#endif
#endif
