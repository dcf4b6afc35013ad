/* fake_files.h - file operations that can be told to fail or to die at the n-th call, with clocks set by hand; and a
 * reader of journals that shares nothing with the writer but the layout.
 */
#ifndef FAKE_FILES_H
#define FAKE_FILES_H

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "record_maker.h"
#include "segment.h"

enum { FAKE_DIED = 86, FAKE_LOG = 4096 };

typedef struct fake_files {
    int calls;      /* so far */
    int at;         /* the call that fails, counted from 1; 0 = none */
    char only;      /* count calls of this letter only; 0 = all */
    int code;       /* what it gives (-errno); 0 = the process dies there, before the call */
    bool for_good;  /* all later ones fail too */
    bool half;      /* a pwrite that fails or dies writes half of its bytes first */
    size_t at_most; /* bytes that one pwrite takes; 0 = all */
    int64_t wall_ns, monotonic_ns;
    int64_t sync_takes_ns;
    char log[FAKE_LOG]; /* a letter for each call */
    size_t logged;
} fake_files;

/* Counts a call; true if it is to fail. */
static inline bool fake_call(fake_files *fake, char letter)
{
    if (fake->logged < FAKE_LOG - 1)
        fake->log[fake->logged++] = letter;
    if (fake->only != 0 && fake->only != letter)
        return false;
    fake->calls++;
    return fake->at != 0 && (fake->calls == fake->at || (fake->for_good && fake->calls > fake->at));
}

static inline int fake_fail(fake_files *fake)
{
    if (fake->code == 0)
        _exit(FAKE_DIED);
    return fake->code;
}

#define REAL ssmd_file_ops_libc

static inline int fake_open(void *context, const char *path, int flags, unsigned mode)
{
    return fake_call(context, 'o') ? fake_fail(context) : REAL.open(NULL, path, flags, mode);
}

static inline int fake_close(void *context, int fd)
{
    return fake_call(context, 'c') ? fake_fail(context) : REAL.close(NULL, fd);
}

static inline int64_t fake_pwrite(void *context, int fd, const void *data, size_t n, int64_t offset)
{
    fake_files *fake = context;
    if (fake_call(fake, 'w')) {
        if (fake->half)
            REAL.pwrite(NULL, fd, data, n / 2, offset);
        return fake_fail(fake);
    }
    return REAL.pwrite(NULL, fd, data, fake->at_most != 0 && n > fake->at_most ? fake->at_most : n, offset);
}

static inline int64_t fake_pread(void *context, int fd, void *data, size_t n, int64_t offset)
{
    return fake_call(context, 'r') ? fake_fail(context) : REAL.pread(NULL, fd, data, n, offset);
}

static inline int fake_truncate(void *context, int fd, int64_t length)
{
    return fake_call(context, 't') ? fake_fail(context) : REAL.truncate(NULL, fd, length);
}

static inline int64_t fake_size(void *context, const char *path)
{
    return fake_call(context, 'z') ? fake_fail(context) : REAL.size(NULL, path);
}

/* Not counted: looking is no step at which something can fail, and comes by the clock. */
static inline int fake_same_file(void *context, int fd, const char *path)
{
    (void)context;
    return REAL.same_file(NULL, fd, path);
}

static inline int fake_sync_data(void *context, int fd)
{
    fake_files *fake = context;
    fake->monotonic_ns += fake->sync_takes_ns;
    return fake_call(fake, 'd') ? fake_fail(fake) : REAL.sync_data(NULL, fd);
}

static inline int fake_sync(void *context, int fd)
{
    return fake_call(context, 'f') ? fake_fail(context) : REAL.sync(NULL, fd);
}

static inline int fake_rename(void *context, const char *from, const char *to)
{
    return fake_call(context, 'n') ? fake_fail(context) : REAL.rename(NULL, from, to);
}

static inline int fake_make_folder(void *context, const char *path)
{
    return fake_call(context, 'm') ? fake_fail(context) : REAL.make_folder(NULL, path);
}

static inline int64_t fake_wall_ns(void *context)
{
    return ((fake_files *)context)->wall_ns;
}

static inline int64_t fake_monotonic_ns(void *context)
{
    return ((fake_files *)context)->monotonic_ns;
}

static inline int fake_reserve(void *context, int fd, int64_t offset, int64_t n)
{
    return fake_call(context, 'v') ? fake_fail(context) : REAL.reserve(NULL, fd, offset, n);
}

/* Between file calls only death makes sense. */
static inline void fake_passed(void *context, int point)
{
    fake_files *fake = context;
    if (fake->code == 0 && fake_call(fake, (char)('0' + point)))
        fake_fail(fake);
}

static inline ssmd_file_ops fake_ops(fake_files *fake)
{
    return (ssmd_file_ops){.context = fake,
                           .open = fake_open,
                           .close = fake_close,
                           .pwrite = fake_pwrite,
                           .pread = fake_pread,
                           .truncate = fake_truncate,
                           .size = fake_size,
                           .same_file = fake_same_file,
                           .sync_data = fake_sync_data,
                           .sync = fake_sync,
                           .rename = fake_rename,
                           .make_folder = fake_make_folder,
                           .wall_ns = fake_wall_ns,
                           .monotonic_ns = fake_monotonic_ns,
                           .passed = fake_passed,
                           .reserve = fake_reserve};
}

/* A folder for one test, in memory where there is such a place: hundreds of syncs are made here. */
static inline int fake_folder(char *path, size_t size)
{
    snprintf(path, size, "%s/ssmd-test-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    return mkdtemp(path) == NULL ? -1 : 0;
}

static inline int fake_remove(const char *path)
{
    char command[4200];
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    return system(command);
}

/* ---- reading back ------------------------------------------------------------------------------ */

typedef struct journal {
    uint64_t records, checkpoints, segments, sealed, bytes;
    uint64_t last_number;
    const char *wrong; /* NULL, or what does not hold */
    char where[512];
} journal;

typedef uint64_t journal_expected(uint8_t *at, uint64_t number); /* builds record `number` as it was pushed */

static inline void journal_wrong(journal *found, const char *what, const char *path, uint64_t offset)
{
    if (found->wrong != NULL)
        return;
    found->wrong = what;
    snprintf(found->where, sizeof(found->where), "%.480s at %llu", path, (unsigned long long)offset);
}

static inline bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Checks a checkpoint against everything that the file says so far. */
static inline const char *journal_checkpoint(const uint8_t *file, uint64_t from, uint64_t at, uint64_t number,
                                             uint64_t records, bool last)
{
    uint8_t copy[136];
    memcpy(copy, file + at, sizeof(copy));
    memset(copy + 96, 0, 4);
    if (ssmd_crc32c(ssmd_crc32c(0, file + from, at - from), copy, sizeof(copy)) != maker_get(file + at + 96, 4))
        return "CRC of a checkpoint";
    if (maker_get(file + at + 4, 4) != 16 || maker_get(file + at + 16, 8) != number)
        return "number of a checkpoint";
    if (maker_get(file + at + 104, 8) != at - from + 136 || maker_get(file + at + 112, 8) != at)
        return "bytes or offset of a checkpoint";
    if (maker_get(file + at + 120, 8) != records)
        return "records of a checkpoint";
    if (maker_get(file + at + 128, 8) != (last ? 1 : 0))
        return "final of a checkpoint";
    return NULL;
}

static inline void journal_segment(journal *found, const char *path, journal_expected *expected)
{
    FILE *stream = fopen(path, "rb");
    struct stat st;
    if (stream == NULL || fstat(fileno(stream), &st) != 0) {
        journal_wrong(found, "a file that cannot be read", path, 0);
        return;
    }
    uint64_t n = (uint64_t)st.st_size, from = 0, records = 0;
    uint8_t *file = malloc(n + 1), *record = malloc(65536);
    bool sealed = ends_with(path, ".capnp"), whole = fread(file, 1, n, stream) == n, final = false;
    fclose(stream);
    for (uint64_t at = 0; whole && at < n && found->wrong == NULL;) {
        uint64_t bytes = n - at < 96 ? 0 : 8 + 8 * maker_get(file + at + 4, 4);
        if (bytes < 96 || bytes > n - at || final) {
            journal_wrong(found, "no whole record", path, at);
        } else if (maker_get(file + at + 72, 2) == SSMD_KIND_CHECKPOINT) {
            final = sealed && at + bytes == n;
            const char *what = journal_checkpoint(file, from, at, found->last_number, records, final);
            if (what != NULL)
                journal_wrong(found, what, path, at);
            from = at + bytes;
            found->checkpoints++;
        } else {
            found->last_number++;
            if (expected(record, found->last_number) != bytes || memcmp(record, file + at, bytes) != 0)
                journal_wrong(found, "a record that is not the next one", path, at);
            found->records++;
            records++;
        }
        at += bytes;
    }
    if (sealed && !final)
        journal_wrong(found, "no final checkpoint", path, n);
    found->segments++;
    found->sealed += sealed;
    found->bytes += n;
    free(file);
    free(record);
}

/* ---- what stood in the files once stays there ------------------------------------------------------ */

enum { SNAPSHOT_FILES = 64 };

typedef struct snapshot {
    size_t count;
    char *names[SNAPSHOT_FILES]; /* without ".open" */
    uint8_t *bytes[SNAPSHOT_FILES];
    uint64_t sizes[SNAPSHOT_FILES]; /* of the whole records */
} snapshot;

static inline uint8_t *file_bytes(const char *path, uint64_t *n)
{
    int64_t size = REAL.size(NULL, path);
    int fd = REAL.open(NULL, path, 0, 0);
    if (size < 0 || fd < 0)
        return NULL;
    uint8_t *bytes = malloc((size_t)size + 1);
    *n = (uint64_t)REAL.pread(NULL, fd, bytes, (size_t)size, 0);
    close(fd);
    return bytes;
}

static inline snapshot snapshot_take(const char *root)
{
    snapshot taken = {0};
    char pattern[4200];
    glob_t files;
    snprintf(pattern, sizeof(pattern), "%s/*/*.capnp*", root);
    if (glob(pattern, 0, NULL, &files) != 0)
        return taken;
    for (size_t i = 0; i < files.gl_pathc && i < SNAPSHOT_FILES; i++) {
        uint64_t n = 0, whole = 0;
        uint8_t *bytes = file_bytes(files.gl_pathv[i], &n);
        while (n - whole >= 8 && 8 + 8 * maker_get(bytes + whole + 4, 4) <= n - whole)
            whole += 8 + 8 * maker_get(bytes + whole + 4, 4);
        taken.names[i] = strdup(files.gl_pathv[i]);
        if (ends_with(taken.names[i], ".open"))
            taken.names[i][strlen(taken.names[i]) - 5] = '\0';
        taken.bytes[i] = bytes;
        taken.sizes[i] = whole;
        taken.count = i + 1;
    }
    globfree(&files);
    return taken;
}

/* NULL, or the file that no longer begins with the whole records that it had. Frees the snapshot. */
static inline const char *snapshot_lost(snapshot *taken)
{
    static char wrong[512];
    wrong[0] = '\0';
    for (size_t i = 0; i < taken->count; i++) {
        char open_name[600];
        uint64_t n = 0;
        snprintf(open_name, sizeof(open_name), "%s.open", taken->names[i]);
        uint8_t *bytes = file_bytes(taken->names[i], &n);
        if (bytes == NULL)
            bytes = file_bytes(open_name, &n);
        if (bytes == NULL || n < taken->sizes[i] || memcmp(bytes, taken->bytes[i], taken->sizes[i]) != 0)
            snprintf(wrong, sizeof(wrong), "%.500s", taken->names[i]);
        free(bytes);
        free(taken->bytes[i]);
        free(taken->names[i]);
    }
    return wrong[0] == '\0' ? NULL : wrong;
}

/* Reads all segments of a journal in order; records must be 1, 2, 3 ... and as expected. */
static inline journal journal_read(const char *root, journal_expected *expected)
{
    journal found = {0};
    char pattern[4200];
    glob_t files;
    snprintf(pattern, sizeof(pattern), "%s/*/*.capnp*", root);
    if (glob(pattern, 0, NULL, &files) == 0) {
        for (size_t i = 0; i < files.gl_pathc; i++)
            journal_segment(&found, files.gl_pathv[i], expected);
        globfree(&files);
    }
    return found;
}

#endif
