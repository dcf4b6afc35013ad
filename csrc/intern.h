/* intern.h - names as small numbers, and what happened to each of them.
 *
 * A market's ticker is met a million times a day. The interner gives each distinct name an id (1, 2, 3 ...), for ever
 * the same, and keeps beside it how many records it had, and when the last one came: the table that health, metrics
 * and the status line read while the producer writes.
 *
 * Looking up takes no lock, whoever does it; only the first sight of a name takes a mutex. Entries live in chunks that
 * never move and are never freed before close, so pointers to names stay good. The hash table is replaced by a larger
 * one as it fills; the old one is kept until close, because a reader may still be walking it (all old ones together are
 * smaller than the last).
 *
 *   table   [ hash | id ] ...           open addressing, at most half full, published with release
 *   chunks  [ 4096 entries ] x 245      entry: counters, length, pointer to the name
 *   names   [ 64 KiB of bytes ] ...
 *
 * Bounded: a million names of at most 256 bytes. Beyond that the id is 0, and counted as refused.
 */
#ifndef SSMD_INTERN_H
#define SSMD_INTERN_H

#include "ssmd.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SSMD_INTERN_MAX_NAMES 1000000u
#define SSMD_INTERN_MAX_BYTES 256u

typedef struct ssmd_interner ssmd_interner;

typedef struct ssmd_activity {
    uint64_t records;
    int64_t last_recv_ns;
    uint64_t last_number;
} ssmd_activity;

/* max_names 0 = SSMD_INTERN_MAX_NAMES, which is also the most. */
SSMD_API int ssmd_interner_open(uint32_t max_names, ssmd_interner **interner);
SSMD_API void ssmd_interner_close(ssmd_interner *interner);

/* The interner of this process, made at first use and never closed; NULL: no memory. */
SSMD_API ssmd_interner *ssmd_interner_of_process(void);

/* Any thread. The id of a name, new or old; 0 = empty, too long, or the table is full. */
SSMD_API uint32_t ssmd_intern(ssmd_interner *interner, const uint8_t *name, size_t n);
/* One thread at a time. A record was written for `id` (0: nothing happens). */
SSMD_API void ssmd_interner_note(ssmd_interner *interner, uint32_t id, int64_t recv_ns, uint64_t number);

/* Any thread. */
SSMD_API uint32_t ssmd_interner_find(const ssmd_interner *interner, const uint8_t *name, size_t n);
SSMD_API const uint8_t *ssmd_resolve(const ssmd_interner *interner, uint32_t id, size_t *n); /* NULL: no such id */
SSMD_API int ssmd_interner_activity(const ssmd_interner *interner, uint32_t id, ssmd_activity *activity);
SSMD_API uint32_t ssmd_interner_count(const ssmd_interner *interner);
SSMD_API uint64_t ssmd_interner_refused(const ssmd_interner *interner);

#ifdef __cplusplus
}
#endif
#endif
