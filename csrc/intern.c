/* intern.c - see intern.h for the picture.
 *
 * Memory order. Whoever adds (one at a time: the mutex) fills an entry, then publishes its id in two places: the slot
 * of the hash table (release) and the count (release). A reader that acquires either sees the whole entry; without the
 * pair it could meet an id whose name is not there yet. A new table is filled completely before the pointer to it is
 * released. The activity counters are relaxed: each is whole by itself, and nobody needs the three of them to be of one
 * instant.
 */
#include "intern.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ENTRIES = 4096, CHUNK_COUNT = 245, NAME_BLOCK_BYTES = 64 * 1024, FIRST_SLOTS = 1024, MAX_TABLES = 16 };
_Static_assert(CHUNK_ENTRIES *CHUNK_COUNT > SSMD_INTERN_MAX_NAMES, "chunks hold all names");
_Static_assert((uint64_t)FIRST_SLOTS << (MAX_TABLES - 1) >= 2ull * SSMD_INTERN_MAX_NAMES, "tables grow far enough");

typedef struct entry {
    _Atomic uint64_t records;
    _Atomic int64_t last_recv_ns;
    _Atomic uint64_t last_number;
    const uint8_t *name;
    uint32_t n;
    uint32_t reserved;
} entry;

typedef struct table {
    uint32_t mask;
    uint32_t reserved;
    _Atomic uint64_t slots[]; /* upper half of the hash << 32 | id; 0 = free */
} table;

typedef struct name_block {
    struct name_block *older;
    size_t used;
    uint8_t bytes[];
} name_block;

struct ssmd_interner {
    _Atomic(table *) table;
    _Atomic uint32_t count;
    uint32_t max_names;
    _Atomic uint64_t refused;
    _Atomic(entry *) chunks[CHUNK_COUNT];
    pthread_mutex_t adding;    /* for all below, and for every store above but `refused` */
    table *tables[MAX_TABLES]; /* all that ever were, for close */
    unsigned table_count;
    name_block *names;
};

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
    return hash ^ hash >> 32;
}

static uint64_t load(const uint8_t *at, size_t n)
{
    uint64_t word = 0;
    memcpy(&word, at, n);
    return word;
}

/* Multiply and fold, 8 bytes a step, the last step overlapping the one before: for spreading, not for secrets. */
static uint64_t hash_of(const uint8_t *name, size_t n)
{
    uint64_t hash = (uint64_t)n * 0x9E3779B97F4A7C15u;
    if (n < 8)
        return mix(mix(hash, load(name, n)), n);
    for (size_t i = 0; i + 8 < n; i += 8)
        hash = mix(hash, load(name + i, 8));
    return mix(mix(hash, load(name + n - 8, 8)), n);
}

static entry *entry_of(const ssmd_interner *interner, uint32_t id)
{
    return &atomic_load_explicit(&interner->chunks[id / CHUNK_ENTRIES], memory_order_acquire)[id % CHUNK_ENTRIES];
}

static table *table_new(uint32_t slots)
{
    table *made = calloc(1, sizeof *made + slots * sizeof made->slots[0]);
    if (made != NULL)
        made->mask = slots - 1;
    return made;
}

/* The id of a name, or 0; *free_slot is where it would go. */
static uint32_t find(const ssmd_interner *interner, table *in, const uint8_t *name, size_t n, uint64_t hash,
                     uint32_t *free_slot)
{
    uint32_t i = (uint32_t)hash & in->mask;
    for (;; i = (i + 1) & in->mask) {
        uint64_t slot = atomic_load_explicit(&in->slots[i], memory_order_acquire);
        if (slot == 0) {
            *free_slot = i;
            return 0;
        }
        if (slot >> 32 == hash >> 32) {
            const entry *at = entry_of(interner, (uint32_t)slot);
            if (at->n == n && memcmp(at->name, name, n) == 0)
                return (uint32_t)slot;
        }
    }
}

/* Twice the slots, all ids moved over, published. */
static table *grow(ssmd_interner *interner, table *old)
{
    table *made = interner->table_count < MAX_TABLES ? table_new((old->mask + 1) * 2) : NULL;
    if (made == NULL)
        return NULL;
    uint32_t count = atomic_load_explicit(&interner->count, memory_order_relaxed);
    for (uint32_t id = 1; id <= count; id++) {
        const entry *at = entry_of(interner, id);
        uint64_t hash = hash_of(at->name, at->n);
        uint32_t i = (uint32_t)hash & made->mask;
        while (atomic_load_explicit(&made->slots[i], memory_order_relaxed) != 0)
            i = (i + 1) & made->mask;
        atomic_store_explicit(&made->slots[i], (hash >> 32) << 32 | id, memory_order_relaxed);
    }
    interner->tables[interner->table_count++] = made;
    atomic_store_explicit(&interner->table, made, memory_order_release); /* pairs with the readers' acquire */
    return made;
}

/* A copy of the name that stays where it is. */
static const uint8_t *keep(ssmd_interner *interner, const uint8_t *name, size_t n)
{
    name_block *block = interner->names;
    if (block == NULL || block->used + n > NAME_BLOCK_BYTES) {
        block = malloc(sizeof *block + NAME_BLOCK_BYTES);
        if (block == NULL)
            return NULL;
        block->older = interner->names;
        block->used = 0;
        interner->names = block;
    }
    uint8_t *to = block->bytes + block->used;
    memcpy(to, name, n);
    block->used += n;
    return to;
}

static uint32_t refuse(ssmd_interner *interner)
{
    atomic_fetch_add_explicit(&interner->refused, 1, memory_order_relaxed);
    return 0;
}

/* Room for entry `id`, its chunk made if it is the first in it. */
static entry *entry_new(ssmd_interner *interner, uint32_t id)
{
    _Atomic(entry *) *chunk = &interner->chunks[id / CHUNK_ENTRIES];
    if (atomic_load_explicit(chunk, memory_order_relaxed) == NULL) {
        entry *made = calloc(CHUNK_ENTRIES, sizeof *made);
        if (made == NULL)
            return NULL;
        atomic_store_explicit(chunk, made, memory_order_release);
    }
    return entry_of(interner, id);
}

/* With the mutex held: the name again, for another thread may have been faster, else a new id. */
static uint32_t add(ssmd_interner *interner, const uint8_t *name, size_t n, uint64_t hash)
{
    table *in = atomic_load_explicit(&interner->table, memory_order_relaxed);
    uint32_t slot = 0, known = find(interner, in, name, n, hash, &slot);
    if (known != 0)
        return known;
    uint32_t count = atomic_load_explicit(&interner->count, memory_order_relaxed), id = count + 1;
    if (count >= interner->max_names)
        return refuse(interner);
    if (id > in->mask / 2) {
        in = grow(interner, in);
        if (in == NULL)
            return refuse(interner);
        find(interner, in, name, n, hash, &slot);
    }
    entry *at = entry_new(interner, id);
    const uint8_t *kept = at == NULL ? NULL : keep(interner, name, n);
    if (kept == NULL)
        return refuse(interner);
    at->name = kept;
    at->n = (uint32_t)n;
    atomic_store_explicit(&interner->count, id,
                          memory_order_release); /* before the slot: who finds an id can resolve it */
    atomic_store_explicit(&in->slots[slot], (hash >> 32) << 32 | id, memory_order_release);
    return id;
}

int ssmd_interner_open(uint32_t max_names, ssmd_interner **interner)
{
    *interner = NULL;
    if (max_names > SSMD_INTERN_MAX_NAMES)
        return SSMD_INVALID;
    ssmd_interner *made = calloc(1, sizeof *made);
    table *first = table_new(FIRST_SLOTS);
    if (made == NULL || first == NULL) {
        free(made);
        free(first);
        return SSMD_NO_MEMORY;
    }
    pthread_mutex_init(&made->adding, NULL); /* cannot fail for a default mutex */
    made->max_names = max_names == 0 ? SSMD_INTERN_MAX_NAMES : max_names;
    made->tables[made->table_count++] = first;
    atomic_store_explicit(&made->table, first, memory_order_release);
    *interner = made;
    return SSMD_OK;
}

void ssmd_interner_close(ssmd_interner *interner)
{
    if (interner == NULL)
        return;
    for (unsigned i = 0; i < interner->table_count; i++)
        free(interner->tables[i]);
    for (unsigned i = 0; i < CHUNK_COUNT; i++)
        free(atomic_load_explicit(&interner->chunks[i], memory_order_relaxed));
    for (name_block *block = interner->names, *older; block != NULL; block = older) {
        older = block->older;
        free(block);
    }
    pthread_mutex_destroy(&interner->adding);
    free(interner);
}

static ssmd_interner *of_process;

static void open_of_process(void)
{
    ssmd_interner_open(0, &of_process);
}

ssmd_interner *ssmd_interner_of_process(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_of_process);
    return of_process;
}

uint32_t ssmd_intern(ssmd_interner *interner, const uint8_t *name, size_t n)
{
    if (n == 0 || n > SSMD_INTERN_MAX_BYTES)
        return refuse(interner);
    uint64_t hash = hash_of(name, n);
    uint32_t slot,
        id = find(interner, atomic_load_explicit(&interner->table, memory_order_acquire), name, n, hash, &slot);
    if (id == 0) {
        pthread_mutex_lock(&interner->adding);
        id = add(interner, name, n, hash);
        pthread_mutex_unlock(&interner->adding);
    }
    return id;
}

void ssmd_interner_note(ssmd_interner *interner, uint32_t id, int64_t recv_ns, uint64_t number)
{
    if (id == 0)
        return;
    entry *at = entry_of(interner, id);
    uint64_t records = atomic_load_explicit(&at->records, memory_order_relaxed);
    atomic_store_explicit(&at->records, records + 1, memory_order_relaxed);
    atomic_store_explicit(&at->last_recv_ns, recv_ns, memory_order_relaxed);
    atomic_store_explicit(&at->last_number, number, memory_order_relaxed);
}

uint32_t ssmd_interner_find(const ssmd_interner *interner, const uint8_t *name, size_t n)
{
    uint32_t slot;
    table *in = atomic_load_explicit(&interner->table, memory_order_acquire);
    return find(interner, in, name, n, hash_of(name, n), &slot);
}

const uint8_t *ssmd_resolve(const ssmd_interner *interner, uint32_t id, size_t *n)
{
    if (id == 0 || id > ssmd_interner_count(interner))
        return NULL;
    const entry *at = entry_of(interner, id);
    *n = at->n;
    return at->name;
}

int ssmd_interner_activity(const ssmd_interner *interner, uint32_t id, ssmd_activity *activity)
{
    if (id == 0 || id > ssmd_interner_count(interner))
        return SSMD_INVALID;
    const entry *at = entry_of(interner, id);
    activity->records = atomic_load_explicit(&at->records, memory_order_relaxed);
    activity->last_recv_ns = atomic_load_explicit(&at->last_recv_ns, memory_order_relaxed);
    activity->last_number = atomic_load_explicit(&at->last_number, memory_order_relaxed);
    return SSMD_OK;
}

uint32_t ssmd_interner_count(const ssmd_interner *interner)
{
    return atomic_load_explicit(&interner->count, memory_order_acquire); /* pairs with the release in add */
}

uint64_t ssmd_interner_refused(const ssmd_interner *interner)
{
    return atomic_load_explicit(&interner->refused, memory_order_relaxed);
}
