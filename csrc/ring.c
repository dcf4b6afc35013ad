/* ring.c - making, attaching and leaving a ring; the commit, clock and status lines; where a producer goes on.
 *
 * The per-record paths stand in ring_internal.h, where other C code can have them inlined.
 *
 * Making: the file is built under a temporary name, complete and synced, then linked to its own. A crash in
 * between leaves a stray temporary file, never half a header. Making anew renames over the old file while holding
 * both its role locks; whoever had opened the old file meanwhile sees, after locking, that the path now names another
 * file, and opens again.
 *
 * Attaching trusts nothing it reads: magic, version, header size, capacity against file size, boot, positions.
 *
 * Roles: open-file-description locks (fcntl(2), F_OFD_SETLK) on the first byte of the role's line. They belong to
 * the open file, not to the process: two opens in one process exclude each other like two processes, and closing
 * an unrelated descriptor of the same file gives nothing up (as POSIX locks would).
 */
#define _GNU_SOURCE /* F_OFD_SETLK */
#include "ring_internal.h"
#include "error_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_OFD_SETLK
#error "ssmd needs open-file-description locks: compile with _GNU_SOURCE on Linux 3.15 or later"
#endif

#define FILE_MODE 0640
#define ATTACH_ATTEMPTS 16
#define LOAD_ATTEMPTS 1000
#define PREFAULT_OVER_END (256u * 1024u)
#define POPULATE_WRITE 23 /* MADV_POPULATE_WRITE, Linux 5.14; older headers lack the name */
#define BODY_STOPPED 5    /* ConnectionEvent.What.stopped */

static int io_error(ssmd_error *error, const char *what)
{
    return ssmd_error_set(error, SSMD_IO, errno, 0, 0, what);
}

/* ---- this boot, this process -------------------------------------------------------------- */

static size_t read_small_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    n = n < 0 ? 0 : n;
    text[n] = '\0';
    return (size_t)n;
}

/* 36 characters and zeros; all zeros where the kernel does not say, which equals only itself. */
static void boot_id_read(char id[40])
{
    char text[64];
    memset(id, 0, 40);
    if (read_small_file("/proc/sys/kernel/random/boot_id", text, sizeof(text)) >= 36)
        memcpy(id, text, 36);
}

/* Start time of a process in ticks since boot, 0 if there is none: with the pid it names a process for good. */
static uint64_t process_started(int64_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
    if (read_small_file(path, text, sizeof(text)) == 0)
        return 0;
    char *at = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at == NULL ? 0 : strtoull(at + 1, NULL, 10);
}

/* ---- roles -------------------------------------------------------------------------------- */

static off_t role_byte(int role)
{
    return role == SSMD_PRODUCER ? (off_t)offsetof(ssmd_ring_header, producer)
                                 : (off_t)offsetof(ssmd_ring_header, consumer);
}

static struct flock role_range(int role)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = role_byte(role), .l_len = 1};
}

static const char *role_name(int role)
{
    return role == SSMD_PRODUCER ? "producer" : "consumer";
}

/* pid of the living owner as its line says it, -1 if the line names a process that is no more. */
static int64_t owner_in_line(int fd, int role)
{
    ssmd_ring_owner_line line;
    if (pread(fd, &line, sizeof(line), role_byte(role)) != (ssize_t)sizeof(line))
        return -1;
    int64_t pid = atomic_load_explicit(&line.pid, memory_order_relaxed);
    uint64_t started = atomic_load_explicit(&line.started, memory_order_relaxed);
    return pid > 0 && process_started(pid) == started ? pid : -1;
}

static int lock_role(int fd, int role, ssmd_error *error)
{
    struct flock range = role_range(role);
    if (fcntl(fd, F_OFD_SETLK, &range) == 0)
        return SSMD_OK;
    if (errno != EAGAIN && errno != EACCES)
        return io_error(error, "lock");
    int64_t pid = owner_in_line(fd, role);
    return ssmd_error_set(error, SSMD_BUSY, 0, pid > 0 ? pid : 0, 0, role_name(role));
}

static int lock_roles(int fd, int roles, ssmd_error *error)
{
    int status = SSMD_OK;
    if ((roles & SSMD_PRODUCER) != 0)
        status = lock_role(fd, SSMD_PRODUCER, error);
    if (status == SSMD_OK && (roles & SSMD_CONSUMER) != 0)
        status = lock_role(fd, SSMD_CONSUMER, error);
    return status;
}

int64_t ssmd_ring_owner(const ssmd_ring *ring, int role)
{
    struct flock range = role_range(role);
    if ((ring->role & role) != 0)
        return getpid();
    if (fcntl(ring->fd, F_OFD_GETLK, &range) != 0)
        return -1;
    return range.l_type == F_UNLCK ? 0 : owner_in_line(ring->fd, role);
}

/* A file made anew may have taken the path's name since it was opened. */
static bool path_still_names(const char *path, int fd)
{
    struct stat named, opened;
    return stat(path, &named) == 0 && fstat(fd, &opened) == 0 && named.st_dev == opened.st_dev &&
           named.st_ino == opened.st_ino;
}

/* ---- making ------------------------------------------------------------------------------- */

static bool capacity_is_valid(uint64_t capacity)
{
    return capacity >= SSMD_RING_MIN_BYTES && capacity <= SSMD_RING_MAX_BYTES && (capacity & (capacity - 1)) == 0;
}

static void slot_store(ssmd_ring_commit_slot *slot, const ssmd_commit *commit)
{
    uint64_t words[SSMD_COMMIT_WORDS];
    memcpy(words, &commit->position, sizeof(words));
    atomic_store_explicit(&slot->begin, commit->generation, memory_order_relaxed);
    /* Release, each: no word before `begin`. Partner: slot_load. */
    for (int i = 0; i < SSMD_COMMIT_WORDS; i++)
        atomic_store_explicit(&slot->words[i], words[i], memory_order_release);
    /* Release: `end` not before the words. Partner: the first load in slot_load. */
    atomic_store_explicit(&slot->end, commit->generation, memory_order_release);
}

static bool slot_load(const ssmd_ring_commit_slot *slot, ssmd_commit *commit)
{
    uint64_t words[SSMD_COMMIT_WORDS];
    uint64_t end = atomic_load_explicit(&slot->end, memory_order_acquire);
    /* Acquire, each: whoever sees a word of a newer commit sees its `begin` in the load below. */
    for (int i = 0; i < SSMD_COMMIT_WORDS; i++)
        words[i] = atomic_load_explicit(&slot->words[i], memory_order_acquire);
    if (end == 0 || atomic_load_explicit(&slot->begin, memory_order_relaxed) != end)
        return false;
    commit->generation = end;
    memcpy(&commit->position, words, sizeof(words));
    return true;
}

static void header_fill(ssmd_ring_header *header, uint64_t capacity, const ssmd_commit *resume)
{
    memset(header, 0, sizeof(*header));
    header->magic = SSMD_RING_MAGIC;
    header->version = SSMD_RING_VERSION;
    header->header_bytes = SSMD_RING_HEADER_BYTES;
    header->capacity = capacity;
    header->created_ns = ssmd_clock_wall_ns();
    boot_id_read(header->boot_id);
    if (resume != NULL) {
        ssmd_commit first = {.generation = 1,
                             .last_number = resume->last_number,
                             .last_recv_ns = resume->last_recv_ns,
                             .durable_number = resume->last_number,
                             .max_connection = resume->max_connection,
                             .clean = resume->clean};
        slot_store(&header->commit[first.generation & 1], &first);
    }
}

static int file_fill(int fd, uint64_t capacity, const ssmd_commit *resume, ssmd_error *error)
{
    ssmd_ring_header header;
    header_fill(&header, capacity, resume);
    /* All pages now: a full disk is an error here and not a SIGBUS later. */
    int code = posix_fallocate(fd, 0, (off_t)(SSMD_RING_HEADER_BYTES + capacity));
    if (code != 0)
        return ssmd_error_set(error, SSMD_IO, code, 0, 0, "allocate");
    if (pwrite(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
        return io_error(error, "write");
    return fsync(fd) == 0 ? SSMD_OK : io_error(error, "sync");
}

/* Builds the file beside `path`, then gives it its name: `replace` takes it from another file. */
static int file_make(const char *path, uint64_t capacity, const ssmd_commit *resume, bool replace, ssmd_error *error)
{
    static _Atomic unsigned counter;
    char temporary[PATH_MAX];
    int n = snprintf(temporary, sizeof(temporary), "%s.%ld.%u.new", path, (long)getpid(),
                     atomic_fetch_add_explicit(&counter, 1, memory_order_relaxed));
    if (n < 0 || (size_t)n >= sizeof(temporary))
        return ssmd_error_set(error, SSMD_IO, ENAMETOOLONG, 0, 0, "create");
    unlink(temporary); /* of a process with our pid that crashed here */
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
    if (fd < 0)
        return io_error(error, "create");
    int status = file_fill(fd, capacity, resume, error);
    close(fd);
    if (status == SSMD_OK && (replace ? rename(temporary, path) : link(temporary, path)) != 0)
        status = io_error(error, "create");
    if (status != SSMD_OK || !replace)
        unlink(temporary);
    return status;
}

static int read_header(int fd, ssmd_ring_header *header, uint64_t *file_bytes, ssmd_error *error)
{
    struct stat st;
    *file_bytes = 0;
    if (fstat(fd, &st) != 0)
        return io_error(error, "stat");
    *file_bytes = (uint64_t)st.st_size;
    memset(header, 0, sizeof(*header));
    ssize_t n = S_ISREG(st.st_mode) ? pread(fd, header, sizeof(*header), 0) : 0;
    if (n < 0)
        return io_error(error, "read");
    if (header->magic != SSMD_RING_MAGIC)
        return ssmd_error_set(error, SSMD_BAD_MAGIC, 0, (int64_t)header->magic, (int64_t)SSMD_RING_MAGIC, "magic");
    return SSMD_OK;
}

int ssmd_ring_create(const char *path, uint64_t capacity, const ssmd_commit *resume, ssmd_error *error)
{
    capacity = capacity == 0 ? SSMD_RING_DEFAULT_BYTES : capacity;
    if (!capacity_is_valid(capacity))
        return ssmd_error_set(error, SSMD_BAD_SIZE, 0, (int64_t)capacity, SSMD_RING_DEFAULT_BYTES, "capacity");
    for (int attempt = 0; attempt < ATTACH_ATTEMPTS; attempt++) {
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 && errno != ENOENT)
            return io_error(error, "open");
        if (fd < 0) {
            int status = file_make(path, capacity, resume, false, error);
            if (status == SSMD_IO && error != NULL && error->sys_errno == EEXIST)
                continue; /* somebody else made one just now */
            return status;
        }
        ssmd_ring_header header;
        uint64_t file_bytes;
        int status = read_header(fd, &header, &file_bytes, error);
        if (status == SSMD_OK)
            status = lock_roles(fd, SSMD_PRODUCER | SSMD_CONSUMER, error);
        bool current = status != SSMD_OK || path_still_names(path, fd);
        if (status == SSMD_OK && current)
            status = file_make(path, capacity, resume, true, error);
        close(fd);
        if (current)
            return status;
    }
    return ssmd_error_set(error, SSMD_IO, EAGAIN, 0, 0, "create");
}

/* ---- attaching ---------------------------------------------------------------------------- */

static int header_check(const ssmd_ring_header *header, uint64_t file_bytes, uint64_t capacity, ssmd_error *error)
{
    if (header->version != SSMD_RING_VERSION)
        return ssmd_error_set(error, SSMD_BAD_VERSION, 0, header->version, SSMD_RING_VERSION, "version");
    if (header->header_bytes != SSMD_RING_HEADER_BYTES || !capacity_is_valid(header->capacity) ||
        file_bytes != SSMD_RING_HEADER_BYTES + header->capacity)
        return ssmd_error_set(error, SSMD_BAD_SIZE, 0, (int64_t)file_bytes,
                              (int64_t)(SSMD_RING_HEADER_BYTES + header->capacity), "file size");
    if (capacity != 0 && capacity != header->capacity)
        return ssmd_error_set(error, SSMD_BAD_SIZE, 0, (int64_t)header->capacity, (int64_t)capacity, "capacity");
    char boot_id[40];
    boot_id_read(boot_id);
    if (memcmp(boot_id, header->boot_id, sizeof(boot_id)) != 0)
        return ssmd_error_set(error, SSMD_STALE, 0, 0, 0, "boot id");
    return SSMD_OK;
}

/* Opens, checks and locks; on SSMD_OK *fd is the file that `path` names. */
static int file_attach(const char *path, uint64_t capacity, int role, int *fd, uint64_t *found, ssmd_error *error)
{
    for (int attempt = 0; attempt < ATTACH_ATTEMPTS; attempt++) {
        *fd = open(path, (role == SSMD_OBSERVER ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
        if (*fd < 0)
            return io_error(error, "open");
        ssmd_ring_header header;
        uint64_t file_bytes;
        int status = read_header(*fd, &header, &file_bytes, error);
        if (status == SSMD_OK)
            status = header_check(&header, file_bytes, capacity, error);
        if (status == SSMD_OK)
            status = lock_roles(*fd, role, error);
        if (status == SSMD_OK && path_still_names(path, *fd)) {
            *found = header.capacity;
            return SSMD_OK;
        }
        close(*fd);
        if (status != SSMD_OK)
            return status;
    }
    return ssmd_error_set(error, SSMD_IO, EAGAIN, 0, 0, "open");
}

/* Every page mapped for writing now: a first touch costs microseconds in the middle of a burst. */
static void prefault(uint8_t *at, uint64_t n)
{
    if (madvise(at, n, POPULATE_WRITE) == 0)
        return;
    for (uint64_t i = 0; i < n; i += 4096) /* adding 0 atomically leaves alone what others write meanwhile */
        __atomic_fetch_add(at + i, 0, __ATOMIC_RELAXED);
}

/* Producer and consumer in one process share one mapping of the file: half the page tables, half the resident size.
 * Entries are told apart by device and inode and live until their last user closes. Opening and closing only. */
typedef struct shared_map {
    struct shared_map *next;
    uint8_t *at;
    uint64_t bytes;
    dev_t device;
    ino_t inode;
    unsigned users;
} shared_map;

static pthread_mutex_t maps_lock = PTHREAD_MUTEX_INITIALIZER;
static shared_map *maps;

/* | header | data | the same data again |, reserved as one range first so that nothing else can get in between. */
static int map_file(int fd, uint64_t capacity, int protection, uint8_t **result, ssmd_error *error)
{
    uint64_t once = SSMD_RING_HEADER_BYTES + capacity;
    uint8_t *at = mmap(NULL, once + capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return io_error(error, "mmap");
    if (mmap(at, once, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
        mmap(at + once, capacity, protection, MAP_SHARED | MAP_FIXED, fd, SSMD_RING_HEADER_BYTES) == MAP_FAILED) {
        int status = io_error(error, "mmap");
        munmap(at, once + capacity);
        return status;
    }
    *result = at;
    return SSMD_OK;
}

static int map_shared(int fd, uint64_t capacity, uint8_t **result, ssmd_error *error)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return io_error(error, "stat");
    for (shared_map *known = maps; known != NULL; known = known->next) {
        if (known->device == st.st_dev && known->inode == st.st_ino) {
            known->users++;
            *result = known->at;
            return SSMD_OK;
        }
    }
    shared_map *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return ssmd_error_set(error, SSMD_NO_MEMORY, 0, sizeof(*made), 0, "mapping");
    int status = map_file(fd, capacity, PROT_READ | PROT_WRITE, &made->at, error);
    if (status != SSMD_OK) {
        free(made);
        return status;
    }
    made->bytes = SSMD_RING_HEADER_BYTES + 2 * capacity;
    made->device = st.st_dev;
    made->inode = st.st_ino;
    made->users = 1;
    made->next = maps;
    maps = made;
    /* The second copy serves only what runs over the end: records of an ordinary size are spared their first touch. */
    prefault(made->at,
             SSMD_RING_HEADER_BYTES + capacity + (capacity < PREFAULT_OVER_END ? capacity : PREFAULT_OVER_END));
    *result = made->at;
    return SSMD_OK;
}

static int map(ssmd_ring *ring, ssmd_error *error)
{
    uint8_t *at = NULL;
    int status;
    if (ring->role == SSMD_OBSERVER) {
        status = map_file(ring->fd, ring->capacity, PROT_READ, &at, error);
    } else {
        pthread_mutex_lock(&maps_lock);
        status = map_shared(ring->fd, ring->capacity, &at, error);
        pthread_mutex_unlock(&maps_lock);
    }
    if (status == SSMD_OK) {
        ring->header = (ssmd_ring_header *)(void *)at;
        ring->data = at + SSMD_RING_HEADER_BYTES;
    }
    return status;
}

static void unmap(ssmd_ring *ring)
{
    if (ring->role == SSMD_OBSERVER) {
        munmap(ring->header, SSMD_RING_HEADER_BYTES + 2 * ring->capacity);
        return;
    }
    pthread_mutex_lock(&maps_lock);
    for (shared_map **link = &maps; *link != NULL; link = &(*link)->next) {
        shared_map *known = *link;
        if (known->at == (uint8_t *)(void *)ring->header) {
            if (--known->users == 0) {
                *link = known->next;
                munmap(known->at, known->bytes);
                free(known);
            }
            break;
        }
    }
    pthread_mutex_unlock(&maps_lock);
}

static void own(ssmd_ring_owner_line *line)
{
    int64_t pid = getpid();
    atomic_store_explicit(&line->started, process_started(pid), memory_order_relaxed);
    atomic_store_explicit(&line->pid, pid, memory_order_relaxed);
}

/* Takes over the positions. The side that we hold the lock of stands still, so the two must fit. */
static int take_roles(ssmd_ring *ring, ssmd_error *error)
{
    ssmd_ring_header *header = ring->header;
    uint64_t tail = ssmd_ring_tail(ring), head = ssmd_ring_head(ring);
    if ((ring->role & SSMD_PRODUCER) != 0)
        tail = ssmd_ring_tail(ring);
    if (ring->role != SSMD_OBSERVER && head - tail > ring->capacity)
        return ssmd_error_set(error, SSMD_DAMAGED, 0, (int64_t)(head - tail), (int64_t)ring->capacity, "positions");
    if ((ring->role & SSMD_PRODUCER) != 0) {
        ring->producer.next = ring->producer.published = head;
        ssmd_ring_refresh_room(ring);
        own(&header->producer);
    }
    if ((ring->role & SSMD_CONSUMER) != 0) {
        ring->consumer.tail = tail;
        own(&header->consumer);
    }
    return SSMD_OK;
}

int ssmd_ring_attach(const char *path, uint64_t capacity, int role, ssmd_ring **result, ssmd_error *error)
{
    *result = NULL;
    if (role < SSMD_OBSERVER || role > (SSMD_PRODUCER | SSMD_CONSUMER))
        return ssmd_error_set(error, SSMD_INVALID, 0, role, 0, "role");
    ssmd_ring *ring = aligned_alloc(SSMD_LINE, sizeof(ssmd_ring));
    if (ring == NULL)
        return ssmd_error_set(error, SSMD_NO_MEMORY, 0, sizeof(ssmd_ring), 0, "ring");
    memset(ring, 0, sizeof(*ring));
    ring->role = role;
    int status = file_attach(path, capacity, role, &ring->fd, &ring->capacity, error);
    if (status != SSMD_OK) {
        free(ring);
        return status;
    }
    ring->mask = ring->capacity - 1;
    ring->limit = ring->capacity / 2;
    ring->wake_bytes = ring->capacity / 2 < SSMD_RING_WAKE_BYTES ? ring->capacity / 2 : SSMD_RING_WAKE_BYTES;
    status = map(ring, error);
    if (status == SSMD_OK)
        status = take_roles(ring, error);
    if (status == SSMD_OK)
        *result = ring;
    else
        ssmd_ring_close(ring);
    return status;
}

int ssmd_ring_open(const char *path, uint64_t capacity, int role, ssmd_ring **ring, ssmd_error *error)
{
    ssmd_error local;
    error = error == NULL ? &local : error;
    for (int attempt = 0; attempt < ATTACH_ATTEMPTS; attempt++) {
        int status = ssmd_ring_attach(path, capacity, role, ring, error);
        if (role == SSMD_OBSERVER || status != SSMD_IO || error->sys_errno != ENOENT)
            return status;
        uint64_t wanted = capacity == 0 ? SSMD_RING_DEFAULT_BYTES : capacity;
        if (!capacity_is_valid(wanted))
            return ssmd_error_set(error, SSMD_BAD_SIZE, 0, (int64_t)wanted, SSMD_RING_DEFAULT_BYTES, "capacity");
        status = file_make(path, wanted, NULL, false, error);
        if (status != SSMD_OK && !(status == SSMD_IO && error->sys_errno == EEXIST))
            return status;
    }
    return ssmd_error_set(error, SSMD_IO, EAGAIN, 0, 0, "open");
}

void ssmd_ring_close(ssmd_ring *ring)
{
    if (ring == NULL)
        return;
    if (ring->header != NULL)
        unmap(ring);
    close(ring->fd); /* the roles end here */
    free(ring);
}

/* ---- positions and bytes ------------------------------------------------------------------ */

uint64_t ssmd_ring_capacity(const ssmd_ring *ring)
{
    return ring->capacity;
}

uint64_t ssmd_ring_limit(const ssmd_ring *ring)
{
    return ring->limit;
}

uint64_t ssmd_ring_head(const ssmd_ring *ring)
{
    /* Acquire, partner: publish. Whoever goes on to read bytes below the head finds them there. */
    return atomic_load_explicit(&ring->header->producer.position, memory_order_acquire);
}

uint64_t ssmd_ring_tail(const ssmd_ring *ring)
{
    /* Acquire, partner: release. Whoever goes on to write below tail + capacity overwrites nothing unread. */
    return atomic_load_explicit(&ring->header->consumer.position, memory_order_acquire);
}

int ssmd_ring_claim(ssmd_ring *ring, uint64_t n, uint8_t **at)
{
    return ssmd_ring_claim_inline(ring, n, at);
}

void ssmd_ring_advance(ssmd_ring *ring, uint64_t n)
{
    ssmd_ring_advance_inline(ring, n);
}

void ssmd_ring_publish(ssmd_ring *ring)
{
    ssmd_ring_publish_inline(ring);
}

int ssmd_ring_push(ssmd_ring *ring, const void *data, uint64_t n)
{
    uint8_t *at;
    if (n % 8 != 0)
        return SSMD_INVALID;
    int status = ssmd_ring_claim_inline(ring, n, &at);
    if (status != SSMD_OK)
        return status;
    memcpy(at, data, n);
    ssmd_ring_advance_inline(ring, n);
    ssmd_ring_publish_inline(ring);
    return SSMD_OK;
}

int ssmd_ring_peek(ssmd_ring *ring, const uint8_t **at, uint64_t *n)
{
    if ((ring->role & SSMD_CONSUMER) == 0)
        return SSMD_INVALID;
    return ssmd_ring_peek_inline(ring, at, n);
}

void ssmd_ring_release(ssmd_ring *ring, uint64_t n)
{
    if ((ring->role & SSMD_CONSUMER) != 0)
        ssmd_ring_release_inline(ring, n);
}

/* ---- bell -------------------------------------------------------------------------------- */

/* A futex on the shared mapping: producer and consumer may be two processes. */
static void futex(ssmd_ring *ring, int what, uint32_t value, const struct timespec *timeout)
{
    syscall(SYS_futex, &ring->header->bell.asleep, what, value, timeout, NULL, 0);
}

void ssmd_ring_sleep(ssmd_ring *ring, uint64_t due_ticks, uint64_t timeout_ns)
{
    const struct timespec timeout = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    if ((ring->role & SSMD_CONSUMER) == 0)
        return;
    atomic_store_explicit(&ring->header->bell.due_ticks, due_ticks, memory_order_relaxed);
    /* Acquire and release, partner: ssmd_ring_wake_inline, which says why nothing is missed. */
    atomic_exchange_explicit(&ring->header->bell.asleep, 1, memory_order_acq_rel);
    if (due_ticks != 0 || ssmd_ring_head(ring) == ring->consumer.tail)
        futex(ring, FUTEX_WAIT, 1, &timeout); /* comes back at once if we were woken meanwhile */
    atomic_store_explicit(&ring->header->bell.asleep, 0, memory_order_relaxed);
}

void ssmd_ring_wake(ssmd_ring *ring)
{
    if (ring->role == SSMD_OBSERVER) /* its mapping cannot be written */
        return;
    atomic_store_explicit(&ring->header->bell.asleep, 0, memory_order_relaxed);
    futex(ring, FUTEX_WAKE, 1, NULL);
}

/* ---- commit line -------------------------------------------------------------------------- */

/* Once there was a commit, one slot is whole at any time: two unwhole ones mean that we were slow (the writer lapped
 * us), so look again; if they stay so, no crash of ours did that. */
int ssmd_ring_commit_load(const ssmd_ring *ring, ssmd_commit *commit)
{
    const ssmd_ring_commit_slot *slots = ring->header->commit;
    for (int attempt = 0; attempt < LOAD_ATTEMPTS; attempt++) {
        uint64_t tail = ssmd_ring_tail(ring); /* first: whoever sees it moved sees the commit before */
        ssmd_commit other;
        bool first = slot_load(&slots[0], commit), second = slot_load(&slots[1], &other);
        if (second && (!first || other.generation > commit->generation))
            *commit = other;
        if (first || second)
            return SSMD_OK;
        memset(commit, 0, sizeof(*commit));
        if (atomic_load_explicit(&slots[0].end, memory_order_relaxed) == 0 &&
            atomic_load_explicit(&slots[1].end, memory_order_relaxed) == 0)
            return tail == 0 ? SSMD_EMPTY : SSMD_DAMAGED; /* nothing is released before a commit */
    }
    return SSMD_DAMAGED;
}

/* Overwrites the older slot, so that the newer one stands whole until this one does. */
int ssmd_ring_commit_store(ssmd_ring *ring, ssmd_commit *commit)
{
    ssmd_commit last;
    if ((ring->role & SSMD_CONSUMER) == 0)
        return SSMD_INVALID;
    ssmd_ring_commit_load(ring, &last); /* generation 0 if there is none */
    commit->generation = last.generation + 1;
    slot_store(&ring->header->commit[commit->generation & 1], commit);
    return SSMD_OK;
}

/* ---- where a producer goes on ------------------------------------------------------------- */

bool ssmd_record_is_stopped(const uint8_t *record, uint64_t bytes)
{
    if (ssmd_load_u16(record + SSMD_RECORD_KIND) != SSMD_KIND_CONNECTION)
        return false;
    uint64_t pointer = ssmd_load_u64(record + SSMD_RECORD_BODY_POINTER);
    /* Struct pointer: 2 bits 0, 30 bits of signed offset in words from the end of the pointer, 16 bits data words. */
    int64_t offset = (int32_t)(uint32_t)pointer >> 2;
    int64_t body = SSMD_RECORD_BODY_POINTER + 8 + 8 * offset;
    if ((pointer & 3) != 0 || ((pointer >> 32) & 0xffff) == 0 || body < 8 || (uint64_t)body + 8 > bytes)
        return false;
    return ssmd_load_u16(record + body) == BODY_STOPPED;
}

int ssmd_ring_resume(const ssmd_ring *ring, ssmd_resume *resume)
{
    ssmd_commit commit;
    uint64_t position = ssmd_ring_tail(ring), head = ssmd_ring_head(ring);
    int status = ssmd_ring_commit_load(ring, &commit);
    bool committed = status == SSMD_OK;
    if (status == SSMD_DAMAGED)
        return SSMD_DAMAGED;
    if (committed && commit.position > position)
        position = commit.position; /* committed, but the crash came before the release */
    *resume =
        (ssmd_resume){commit.last_number, commit.last_recv_ns, commit.max_connection, committed ? commit.clean : 1};
    while (position < head) {
        const uint8_t *record = ring->data + (position & ring->mask);
        uint64_t bytes = head - position > ring->capacity ? 0 : ssmd_record_bytes(record, head - position);
        if (bytes == 0)
            return SSMD_DAMAGED;
        resume->last_number = ssmd_load_u64(record + SSMD_RECORD_NUMBER);
        resume->last_recv_ns = (int64_t)ssmd_load_u64(record + SSMD_RECORD_RECV_NS);
        uint32_t connection = ssmd_load_u32(record + SSMD_RECORD_CONNECTION);
        if (connection > resume->max_connection)
            resume->max_connection = connection;
        resume->clean = ssmd_record_is_stopped(record, bytes);
        position += bytes;
    }
    return position == head ? SSMD_OK : SSMD_DAMAGED;
}

/* ---- clock line --------------------------------------------------------------------------- */

_Static_assert(sizeof(ssmd_clock_anchor) == 40, "the clock line holds five words");

/* The same scheme as in clock.c: odd while the words change. */
int ssmd_ring_clock_store(ssmd_ring *ring, const ssmd_clock_anchor *anchor)
{
    if ((ring->role & SSMD_PRODUCER) == 0)
        return SSMD_INVALID;
    uint64_t words[5];
    memcpy(words, anchor, sizeof(words));
    /* A producer killed in the middle left it odd: go on from the next odd one. */
    uint64_t sequence = atomic_load_explicit(&ring->header->clock.sequence, memory_order_relaxed) | 1;
    sequence += 2;
    atomic_store_explicit(&ring->header->clock.sequence, sequence, memory_order_relaxed);
    for (int i = 0; i < 5; i++) /* Release, each: no word before the odd sequence. Partner: clock_load. */
        atomic_store_explicit(&ring->header->clock.words[i], words[i], memory_order_release);
    /* Release: the even sequence not before the words. Partner: the first load in clock_load. */
    atomic_store_explicit(&ring->header->clock.sequence, sequence + 1, memory_order_release);
    return SSMD_OK;
}

int ssmd_ring_clock_load(const ssmd_ring *ring, ssmd_clock_anchor *anchor)
{
    uint64_t words[5];
    for (int attempt = 0; attempt < LOAD_ATTEMPTS; attempt++) {
        uint64_t before = atomic_load_explicit(&ring->header->clock.sequence, memory_order_acquire);
        if (before == 0)
            break;
        for (int i = 0; i < 5; i++) /* Acquire, each: a new word shows its odd sequence in the load below. */
            words[i] = atomic_load_explicit(&ring->header->clock.words[i], memory_order_acquire);
        if ((before & 1) == 0 && atomic_load_explicit(&ring->header->clock.sequence, memory_order_relaxed) == before) {
            memcpy(anchor, words, sizeof(words));
            return SSMD_OK;
        }
    }
    memset(anchor, 0, sizeof(*anchor));
    return SSMD_EMPTY;
}

/* ---- status line: counters and gauges, each for itself, so relaxed ------------------------- */

#define LOAD(field) status->field = atomic_load_explicit(&ring->header->status.field, memory_order_relaxed)
#define STORE(field) atomic_store_explicit(&ring->header->status.field, status->field, memory_order_relaxed)
#define EACH_STATUS_FIELD(DO)                                                                                          \
    do {                                                                                                               \
        DO(state);                                                                                                     \
        DO(status);                                                                                                    \
        DO(sys_errno);                                                                                                 \
        DO(what);                                                                                                      \
        DO(error_since_ns);                                                                                            \
        DO(heartbeat_ns);                                                                                              \
        DO(pid);                                                                                                       \
        DO(written_bytes);                                                                                             \
        DO(written_records);                                                                                           \
        DO(segments_sealed);                                                                                           \
        DO(syncs);                                                                                                     \
        DO(longest_sync_ns);                                                                                           \
        DO(errors);                                                                                                    \
        DO(losses);                                                                                                    \
        DO(lost_first);                                                                                                \
        DO(lost_last);                                                                                                 \
        DO(lost_since_ns);                                                                                             \
    } while (0)

int ssmd_ring_status(const ssmd_ring *ring, ssmd_flusher_status *status)
{
    memset(status, 0, sizeof(*status));
    EACH_STATUS_FIELD(LOAD);
    return SSMD_OK;
}

int ssmd_ring_status_store(ssmd_ring *ring, const ssmd_flusher_status *status)
{
    if ((ring->role & SSMD_CONSUMER) == 0)
        return SSMD_INVALID;
    EACH_STATUS_FIELD(STORE);
    return SSMD_OK;
}
