/* segment.c - see segment.h for the picture and the promises.
 *
 * Failure policy: every function either does its whole job or leaves `offset`, the CRC and the counters as they
 * were, so that the caller repeats it. What may have been left in the file is remembered in flags (overhang,
 * suspect, renamed) and put right first by the next call.
 *
 * After a failed fdatasync Linux may mark the dirty pages clean: a second fdatasync would succeed and mean
 * nothing (the "fsyncgate" of 2018). So the bytes since the last good sync, which are those since the last checkpoint,
 * are read back, written again and checked against the running CRC before the next try.
 */
#define _GNU_SOURCE /* fallocate */
#include "segment.h"
#include "clock.h"
#include "crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES (64u * 1024u)
#define FILE_MODE 0640
#define FOLDER_MODE 0750

const char *ssmd_flusher_what_text(uint32_t what)
{
    static const char *const TEXTS[SSMD_WHAT_COUNT] = {
        [SSMD_WHAT_NOTHING] = "",
        [SSMD_WHAT_FOLDER] = "make folder",
        [SSMD_WHAT_CREATE] = "create segment",
        [SSMD_WHAT_OPEN] = "open segment",
        [SSMD_WHAT_READ] = "read segment",
        [SSMD_WHAT_WRITE] = "write segment",
        [SSMD_WHAT_CUT] = "cut segment",
        [SSMD_WHAT_SYNC] = "sync segment",
        [SSMD_WHAT_SYNC_FOLDER] = "sync folder",
        [SSMD_WHAT_SEAL] = "seal segment",
        [SSMD_WHAT_RING] = "record in the ring",
        [SSMD_WHAT_LENGTH] = "length of the open segment",
        [SSMD_WHAT_CRC] = "CRC of the open segment",
        [SSMD_WHAT_LOCK] = "flusher of the data folder",
        [SSMD_WHAT_GONE] = "the data folder or the open segment, which was deleted or replaced",
    };
    return what < SSMD_WHAT_COUNT ? TEXTS[what] : "unknown";
}

static int fail(ssmd_segment_fault *fault, int status, int64_t code, uint32_t what, int64_t value, int64_t expected)
{
    *fault = (ssmd_segment_fault){status, (int32_t)-code, what, value, expected};
    return status;
}

static int io_fail(ssmd_segment_fault *fault, int64_t code, uint32_t what)
{
    return fail(fault, SSMD_IO, code, what, 0, 0);
}

/* ---- the calls of libc -------------------------------------------------------------------- */

static int libc_open(void *context, const char *path, int flags, unsigned mode)
{
    (void)context;
    int fd = open(path, flags, mode);
    return fd < 0 ? -errno : fd;
}

static int libc_close(void *context, int fd)
{
    (void)context;
    return close(fd) == 0 ? 0 : -errno;
}

static int64_t libc_pwrite(void *context, int fd, const void *data, size_t n, int64_t offset)
{
    (void)context;
    ssize_t written = pwrite(fd, data, n, offset);
    return written < 0 ? -errno : written;
}

static int64_t libc_pread(void *context, int fd, void *data, size_t n, int64_t offset)
{
    (void)context;
    ssize_t got = pread(fd, data, n, offset);
    return got < 0 ? -errno : got;
}

static int libc_truncate(void *context, int fd, int64_t length)
{
    (void)context;
    return ftruncate(fd, length) == 0 ? 0 : -errno;
}

static int64_t libc_size(void *context, const char *path)
{
    (void)context;
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -errno;
}

/* What cannot be told is taken for the same: a disk that fails now and then has lost nothing by that. */
static int libc_same_file(void *context, int fd, const char *path)
{
    (void)context;
    struct stat open_file, named;
    if (stat(path, &named) != 0)
        return errno != ENOENT && errno != ENOTDIR;
    return fstat(fd, &open_file) != 0 || (open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino);
}

static int libc_sync_data(void *context, int fd)
{
    (void)context;
    return fdatasync(fd) == 0 ? 0 : -errno;
}

static int libc_sync(void *context, int fd)
{
    (void)context;
    return fsync(fd) == 0 ? 0 : -errno;
}

static int libc_rename(void *context, const char *from, const char *to)
{
    (void)context;
    return rename(from, to) == 0 ? 0 : -errno;
}

static int libc_make_folder(void *context, const char *path)
{
    (void)context;
    return mkdir(path, FOLDER_MODE) == 0 ? 0 : -errno;
}

static int libc_reserve(void *context, int fd, int64_t offset, int64_t n)
{
    (void)context;
    return fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, n) == 0 ? 0 : -errno;
}

static int64_t libc_wall_ns(void *context)
{
    (void)context;
    return ssmd_clock_wall_ns();
}

static int64_t libc_monotonic_ns(void *context)
{
    (void)context;
    return ssmd_clock_monotonic_ns();
}

const ssmd_file_ops ssmd_file_ops_libc = {
    .open = libc_open,
    .close = libc_close,
    .pwrite = libc_pwrite,
    .pread = libc_pread,
    .truncate = libc_truncate,
    .size = libc_size,
    .same_file = libc_same_file,
    .sync_data = libc_sync_data,
    .sync = libc_sync,
    .rename = libc_rename,
    .make_folder = libc_make_folder,
    .wall_ns = libc_wall_ns,
    .monotonic_ns = libc_monotonic_ns,
    .reserve = libc_reserve,
    .reserve_bytes = 8u * 1024u * 1024u,
};

/* ---- names -------------------------------------------------------------------------------- */

static const char *const SUFFIXES[] = {
    [SSMD_SEGMENT_OPEN] = ".capnp.open", [SSMD_SEGMENT_SEALED] = ".capnp", [SSMD_SEGMENT_ZST] = ".capnp.zst"};

static void folder_path(const char *root, uint32_t day, char *path, size_t size)
{
    snprintf(path, size, "%s/%04u-%02u-%02u", root, day / 10000u, day / 100u % 100u, day % 100u);
}

int ssmd_segment_path(const char *root, uint32_t day, int64_t start_ns, uint64_t first_number, int form, char *path,
                      size_t size)
{
    if (form < SSMD_SEGMENT_OPEN || form > SSMD_SEGMENT_ZST || day > 99991231u)
        return SSMD_INVALID;
    time_t seconds = (time_t)(start_ns / 1000000000 - (start_ns % 1000000000 < 0));
    struct tm utc;
    char stamp[32];
    gmtime_r(&seconds, &utc);
    strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &utc);
    int n = snprintf(path, size, "%s/%04u-%02u-%02u/%s-%012" PRIu64 "%s", root, day / 10000u, day / 100u % 100u,
                     day % 100u, stamp, first_number, SUFFIXES[form]);
    return n > 0 && (size_t)n < size ? SSMD_OK : SSMD_TOO_LARGE;
}

static void own_path(const ssmd_segment *segment, int form, char path[SSMD_PATH_BYTES])
{
    ssmd_segment_path(segment->root, segment->day, segment->start_ns, segment->first_number, form, path,
                      SSMD_PATH_BYTES);
}

/* Size of the segment's file in this form, -ENOENT if it has none. */
static int64_t own_size(const ssmd_segment *segment, int form)
{
    char path[SSMD_PATH_BYTES];
    own_path(segment, form, path);
    return segment->ops->size(segment->ops->context, path);
}

/* ---- folders ------------------------------------------------------------------------------ */

static int sync_folder(const ssmd_segment *segment, const char *path, ssmd_segment_fault *fault)
{
    const ssmd_file_ops *ops = segment->ops;
    int fd = ops->open(ops->context, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return io_fail(fault, fd, SSMD_WHAT_SYNC_FOLDER);
    int code = ops->sync(ops->context, fd);
    ops->close(ops->context, fd);
    return code == 0 ? SSMD_OK : io_fail(fault, code, SSMD_WHAT_SYNC_FOLDER);
}

/* The names on the disk: that of the day's folder in the root, that of the file in the folder. */
static int sync_names(ssmd_segment *segment, ssmd_segment_fault *fault)
{
    char path[SSMD_PATH_BYTES];
    if (segment->root_dirty) {
        int status = sync_folder(segment, segment->root, fault);
        if (status != SSMD_OK)
            return status;
        segment->root_dirty = false;
    }
    if (segment->folder_dirty) {
        folder_path(segment->root, segment->day, path, sizeof(path));
        int status = sync_folder(segment, path, fault);
        if (status != SSMD_OK)
            return status;
        segment->folder_dirty = false;
    }
    return SSMD_OK;
}

/* ---- bytes -------------------------------------------------------------------------------- */

static int write_all(ssmd_segment *segment, const uint8_t *data, uint64_t n, uint64_t offset, ssmd_segment_fault *fault)
{
    const ssmd_file_ops *ops = segment->ops;
    for (uint64_t done = 0; done < n;) {
        int64_t code = ops->pwrite(ops->context, segment->fd, data + done, n - done, (int64_t)(offset + done));
        if (code == -EINTR)
            continue;
        if (code <= 0) /* 0 does not happen on a file; if it did, a loop would be worse than an error */
            return io_fail(fault, code == 0 ? -EIO : code, SSMD_WHAT_WRITE);
        done += (uint64_t)code;
    }
    return SSMD_OK;
}

static int read_all(ssmd_segment *segment, uint8_t *data, uint64_t n, uint64_t offset, ssmd_segment_fault *fault)
{
    const ssmd_file_ops *ops = segment->ops;
    for (uint64_t done = 0; done < n;) {
        int64_t code = ops->pread(ops->context, segment->fd, data + done, n - done, (int64_t)(offset + done));
        if (code == -EINTR)
            continue;
        if (code < 0)
            return io_fail(fault, code, SSMD_WHAT_READ);
        if (code == 0)
            return fail(fault, SSMD_DAMAGED, 0, SSMD_WHAT_LENGTH, (int64_t)(offset + done), (int64_t)segment->offset);
        done += (uint64_t)code;
    }
    return SSMD_OK;
}

/* Cuts what stands beyond offset. */
static int settle(ssmd_segment *segment, ssmd_segment_fault *fault)
{
    if (!segment->overhang)
        return SSMD_OK;
    int code = segment->ops->truncate(segment->ops->context, segment->fd, (int64_t)segment->offset);
    if (code != 0)
        return io_fail(fault, code, SSMD_WHAT_CUT);
    segment->overhang = false;
    segment->reserved = 0;
    return SSMD_OK;
}

/* So that a seal, and a recovery, can tell by the size whether there is anything to give back. */
static bool is_large(const ssmd_segment *segment)
{
    return segment->ops->reserve_bytes != 0 && segment->offset >= segment->ops->reserve_bytes;
}

/* Sets blocks aside for a segment that has become large: then the kernel looks up where a page goes, and keeps no books
 * of pages without a place. The file's size stays, so nobody sees anything of it. Where that cannot be had it is done
 * without, and not asked for again in this segment. */
static void reserve(ssmd_segment *segment, uint64_t n)
{
    const ssmd_file_ops *ops = segment->ops;
    uint64_t end = segment->offset + n;
    if (!is_large(segment) || end <= segment->reserved)
        return;
    uint64_t from = segment->reserved > segment->offset ? segment->reserved : segment->offset;
    end += ops->reserve_bytes;
    int code = ops->reserve(ops->context, segment->fd, (int64_t)from, (int64_t)(end - from));
    segment->reserved = code == 0 ? end : UINT64_MAX;
}

/* What was set aside and not used, by us or by whoever wrote before us, goes back with the next settle. */
static void give_back(ssmd_segment *segment)
{
    if (is_large(segment))
        segment->overhang = true;
}

/* Reads what came after the last checkpoint and compares its CRC; with `again` writes it back in place. */
static int check_bytes(ssmd_segment *segment, bool again, ssmd_segment_fault *fault)
{
    uint32_t crc = 0;
    for (uint64_t at = segment->checkpoint_offset; at < segment->offset;) {
        uint64_t n = segment->offset - at < BUFFER_BYTES ? segment->offset - at : BUFFER_BYTES;
        int status = read_all(segment, segment->buffer, n, at, fault);
        if (status == SSMD_OK && again)
            status = write_all(segment, segment->buffer, n, at, fault);
        if (status != SSMD_OK)
            return status;
        crc = ssmd_crc32c(crc, segment->buffer, n);
        at += n;
    }
    if (crc != segment->crc32c)
        return fail(fault, SSMD_DAMAGED, 0, SSMD_WHAT_CRC, crc, segment->crc32c);
    return SSMD_OK;
}

int ssmd_segment_append(ssmd_segment *segment, const uint8_t *data, uint64_t n, uint64_t records,
                        ssmd_segment_fault *fault)
{
    int status = settle(segment, fault);
    if (status != SSMD_OK)
        return status;
    reserve(segment, n);
    status = write_all(segment, data, n, segment->offset, fault);
    if (status != SSMD_OK) {
        segment->overhang = true;
        return status;
    }
    segment->crc32c = ssmd_crc32c(segment->crc32c, data, n);
    segment->offset += n;
    segment->records += records;
    return SSMD_OK;
}

/* ---- checkpoints -------------------------------------------------------------------------- */

static void put_u16(uint8_t *at, uint16_t value)
{
    memcpy(at, &value, sizeof(value));
}

static void put_u32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value));
}

static void put_u64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof(value));
}

enum { /* where the fields of struct Checkpoint stand in the record */
       CHECKPOINT_BODY = SSMD_RECORD_HEADER_BYTES,
       CHECKPOINT_CRC = CHECKPOINT_BODY,
       CHECKPOINT_MAX_CONNECTION = CHECKPOINT_BODY + 4,
       CHECKPOINT_COVERED = CHECKPOINT_BODY + 8,
       CHECKPOINT_OFFSET = CHECKPOINT_BODY + 16,
       CHECKPOINT_RECORDS = CHECKPOINT_BODY + 24,
       CHECKPOINT_FINAL = CHECKPOINT_BODY + 32
};
_Static_assert(CHECKPOINT_BODY + 40 == SSMD_CHECKPOINT_BYTES, "five words of body, no pointers");

static void checkpoint_encode(const ssmd_segment *segment, const ssmd_segment_mark *checkpoint,
                              uint8_t at[SSMD_CHECKPOINT_BYTES])
{
    memset(at, 0, SSMD_CHECKPOINT_BYTES);
    put_u32(at + 4, (SSMD_CHECKPOINT_BYTES - 8) / 8);
    put_u64(at + 8, (UINT64_C(2) << 48) | (UINT64_C(8) << 32)); /* root: 8 words of data, 2 pointers, right behind */
    put_u64(at + SSMD_RECORD_NUMBER, checkpoint->last_number);
    put_u64(at + SSMD_RECORD_RECV_NS, (uint64_t)checkpoint->last_recv_ns);
    put_u16(at + SSMD_RECORD_KIND, SSMD_KIND_CHECKPOINT);
    put_u64(at + SSMD_RECORD_BODY_POINTER, UINT64_C(5) << 32); /* body: 5 words of data, no pointers, right behind */
    put_u32(at + CHECKPOINT_MAX_CONNECTION, checkpoint->max_connection);
    put_u64(at + CHECKPOINT_COVERED, segment->offset - segment->checkpoint_offset + SSMD_CHECKPOINT_BYTES);
    put_u64(at + CHECKPOINT_OFFSET, segment->offset);
    put_u64(at + CHECKPOINT_RECORDS, segment->records);
    at[CHECKPOINT_FINAL] = checkpoint->final;
    put_u32(at + CHECKPOINT_CRC, ssmd_crc32c(segment->crc32c, at, SSMD_CHECKPOINT_BYTES)); /* was zero until here */
}

/* All bytes and a checkpoint on the disk; the checkpoint is beyond offset still. */
static int make_durable(ssmd_segment *segment, const ssmd_segment_mark *checkpoint, ssmd_segment_fault *fault)
{
    uint8_t record[SSMD_CHECKPOINT_BYTES];
    int status = settle(segment, fault);
    if (status == SSMD_OK && segment->suspect)
        status = check_bytes(segment, true, fault);
    if (status != SSMD_OK)
        return status;
    checkpoint_encode(segment, checkpoint, record);
    segment->overhang = true;
    status = write_all(segment, record, sizeof(record), segment->offset, fault);
    if (status == SSMD_OK)
        status = sync_names(segment, fault);
    if (status != SSMD_OK)
        return status;
    int code = segment->ops->sync_data(segment->ops->context, segment->fd);
    segment->suspect = code != 0;
    return code == 0 ? SSMD_OK : io_fail(fault, code, SSMD_WHAT_SYNC);
}

int ssmd_segment_sync(ssmd_segment *segment, const ssmd_segment_mark *checkpoint, ssmd_segment_fault *fault)
{
    int status = make_durable(segment, checkpoint, fault);
    if (status != SSMD_OK)
        return status;
    segment->offset += SSMD_CHECKPOINT_BYTES;
    segment->checkpoint_offset = segment->offset;
    segment->crc32c = 0;
    segment->overhang = false;
    return SSMD_OK;
}

/* ---- beginning and end -------------------------------------------------------------------- */

static void forget(ssmd_segment *segment)
{
    if (segment->fd >= 0)
        segment->ops->close(segment->ops->context, segment->fd);
    segment->fd = -1;
    segment->first_number = segment->offset = segment->records = segment->checkpoint_offset = segment->reserved = 0;
    segment->start_ns = 0;
    segment->day = segment->crc32c = 0;
    segment->overhang = segment->suspect = segment->folder_dirty = segment->sealing = segment->renamed = false;
}

int ssmd_segment_init(ssmd_segment *segment, const char *root, const ssmd_file_ops *ops)
{
    memset(segment, 0, sizeof(*segment));
    segment->ops = ops;
    segment->fd = -1;
    segment->root_dirty = true;
    if (strlen(root) >= sizeof(segment->root))
        return SSMD_TOO_LARGE;
    memcpy(segment->root, root, strlen(root) + 1);
    segment->buffer = malloc(BUFFER_BYTES);
    return segment->buffer == NULL ? SSMD_NO_MEMORY : SSMD_OK;
}

void ssmd_segment_free(ssmd_segment *segment)
{
    forget(segment);
    free(segment->buffer);
    segment->buffer = NULL;
}

int ssmd_segment_begin(ssmd_segment *segment, uint32_t day, int64_t start_ns, uint64_t first_number,
                       ssmd_segment_fault *fault)
{
    char folder[SSMD_PATH_BYTES];
    folder_path(segment->root, day, folder, sizeof(folder));
    int code = segment->ops->make_folder(segment->ops->context, folder);
    if (code != 0 && code != -EEXIST)
        return io_fail(fault, code, SSMD_WHAT_FOLDER);
    if (code == 0)
        segment->root_dirty = true;
    ssmd_segment named = {.ops = segment->ops, .day = day, .start_ns = start_ns, .first_number = first_number};
    memcpy(named.root, segment->root, sizeof(named.root));
    for (int form = SSMD_SEGMENT_OPEN; form <= SSMD_SEGMENT_ZST; form++) {
        int64_t size = own_size(&named, form);
        if (size != -ENOENT)
            return io_fail(fault, size >= 0 ? -EEXIST : size, SSMD_WHAT_CREATE);
    }
    segment->day = day;
    segment->start_ns = start_ns;
    segment->first_number = first_number;
    return SSMD_OK;
}

int ssmd_segment_create(ssmd_segment *segment, ssmd_segment_fault *fault)
{
    char path[SSMD_PATH_BYTES];
    own_path(segment, SSMD_SEGMENT_OPEN, path);
    int fd = segment->ops->open(segment->ops->context, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
    if (fd < 0)
        return io_fail(fault, fd, SSMD_WHAT_CREATE);
    segment->fd = fd;
    segment->folder_dirty = true;
    return SSMD_OK;
}

/* The open file is not there: sealed, never made, or lost? */
static int reopen_missing(ssmd_segment *segment, ssmd_segment_fault *fault)
{
    if (segment->offset == 0)
        return ssmd_segment_create(segment, fault);
    int64_t size = own_size(segment, SSMD_SEGMENT_SEALED);
    bool sealed = size >= (int64_t)segment->offset || own_size(segment, SSMD_SEGMENT_ZST) >= 0;
    if (!sealed)
        return fail(fault, SSMD_DAMAGED, 0, SSMD_WHAT_LENGTH, size < 0 ? 0 : size, (int64_t)segment->offset);
    segment->folder_dirty = true;
    int status = sync_names(segment, fault);
    if (status != SSMD_OK)
        return status;
    forget(segment);
    return SSMD_EMPTY;
}

/* Does exactly this checkpoint stand beyond offset? */
static bool ends_with(ssmd_segment *segment, const ssmd_segment_mark *mark, ssmd_segment_fault *fault)
{
    uint8_t found[SSMD_CHECKPOINT_BYTES], wanted[SSMD_CHECKPOINT_BYTES];
    checkpoint_encode(segment, mark, wanted);
    return read_all(segment, found, sizeof(found), segment->offset, fault) == SSMD_OK &&
           memcmp(found, wanted, sizeof(found)) == 0;
}

/* The open file is there, and its committed bytes are good; `size` says what stands beyond them. */
static int reopen_rest(ssmd_segment *segment, int64_t size, const ssmd_segment_mark *mark, ssmd_segment_fault *fault)
{
    segment->overhang = size > (int64_t)segment->offset;
    if (size == (int64_t)(segment->offset + SSMD_CHECKPOINT_BYTES)) {
        ssmd_segment_mark last = *mark;
        last.final = false;
        segment->overhang = false; /* either is written again in place */
        if (ends_with(segment, &last, fault))
            return ssmd_segment_sync(segment, &last, fault);
        last.final = true;
        if (ends_with(segment, &last, fault)) {
            int status = ssmd_segment_seal(segment, &last, fault);
            return status == SSMD_OK ? SSMD_EMPTY : status;
        }
        segment->overhang = true;
    }
    return settle(segment, fault);
}

int ssmd_segment_reopen(ssmd_segment *segment, const ssmd_segment_mark *mark, ssmd_segment_fault *fault)
{
    char path[SSMD_PATH_BYTES];
    own_path(segment, SSMD_SEGMENT_OPEN, path);
    int fd = segment->ops->open(segment->ops->context, path, O_RDWR | O_CLOEXEC, 0);
    if (fd == -ENOENT)
        return reopen_missing(segment, fault);
    if (fd < 0)
        return io_fail(fault, fd, SSMD_WHAT_OPEN);
    segment->fd = fd;
    segment->folder_dirty = true;
    int64_t size = own_size(segment, SSMD_SEGMENT_OPEN);
    if (size < 0)
        return io_fail(fault, size, SSMD_WHAT_OPEN);
    if (size < (int64_t)segment->offset)
        return fail(fault, SSMD_DAMAGED, 0, SSMD_WHAT_LENGTH, size, (int64_t)segment->offset);
    int status = check_bytes(segment, false, fault);
    return status == SSMD_OK ? reopen_rest(segment, size, mark, fault) : status;
}

bool ssmd_segment_is_gone(const ssmd_segment *segment)
{
    char path[SSMD_PATH_BYTES];
    const ssmd_file_ops *ops = segment->ops;
    if (segment->day == 0)
        return false;
    if (segment->fd < 0) {
        folder_path(segment->root, segment->day, path, sizeof(path));
        return ops->size(ops->context, path) == -ENOENT;
    }
    own_path(segment, segment->renamed ? SSMD_SEGMENT_SEALED : SSMD_SEGMENT_OPEN, path);
    if (ops->same_file(ops->context, segment->fd, path) != 0)
        return false;
    return !segment->renamed || own_size(segment, SSMD_SEGMENT_ZST) < 0; /* compressed in the meantime: well */
}

void ssmd_segment_abandon(ssmd_segment *segment, const ssmd_segment_mark *checkpoint)
{
    uint8_t record[SSMD_CHECKPOINT_BYTES];
    ssmd_segment_fault ignored;
    ssmd_segment_mark last = *checkpoint;
    last.final = true;
    if (segment->fd >= 0 && segment->offset > 0 && !segment->suspect && !segment->renamed) {
        checkpoint_encode(segment, &last, record);
        give_back(segment);
        if (settle(segment, &ignored) == SSMD_OK &&
            write_all(segment, record, sizeof(record), segment->offset, &ignored) == SSMD_OK)
            segment->ops->sync_data(segment->ops->context, segment->fd);
    }
    forget(segment);
    segment->root_dirty = true;
}

int ssmd_segment_seal(ssmd_segment *segment, const ssmd_segment_mark *checkpoint, ssmd_segment_fault *fault)
{
    char open_path[SSMD_PATH_BYTES], sealed_path[SSMD_PATH_BYTES];
    segment->sealing = true;
    if (!segment->renamed) {
        give_back(segment);
        int status = make_durable(segment, checkpoint, fault);
        if (status != SSMD_OK)
            return status;
        own_path(segment, SSMD_SEGMENT_OPEN, open_path);
        own_path(segment, SSMD_SEGMENT_SEALED, sealed_path);
        int64_t size = segment->ops->size(segment->ops->context, sealed_path);
        if (size != -ENOENT) /* rename would replace it */
            return io_fail(fault, size >= 0 ? -EEXIST : size, SSMD_WHAT_SEAL);
        int code = segment->ops->rename(segment->ops->context, open_path, sealed_path);
        if (code != 0)
            return io_fail(fault, code, SSMD_WHAT_SEAL);
        segment->renamed = segment->folder_dirty = true;
    }
    int status = sync_names(segment, fault);
    if (status == SSMD_OK)
        forget(segment);
    return status;
}
