/* sums.h - how many records a row of bytes holds and what they are, in sums that can be compared.
 *
 * For: comparing two copies of a journal without keeping either (ssmd/against.py). Records are summed up per block of
 * numbers: how many there are, and the sum of a digest of each record's bytes. Two copies whose sums are equal hold the
 * same records, in whatever order and in however many pieces they came.
 *
 * The digest is SipHash-1-3 of 64 bits, keyed: whoever does not know the key cannot make two records that stand for
 * each other. Of a record only the framing is looked at, as ssmd/journal/pieces.py does, which is the specification.
 *
 * Not for: checking records (walk.h), nor for anything that is stored: a sum is worth something in one process only.
 */
#ifndef SSMD_SUMS_H
#define SSMD_SUMS_H

#include "ssmd.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Records of one block of numbers that follow each other in the bytes. */
typedef struct ssmd_sum {
    uint64_t block; /* number / block_numbers */
    uint64_t count;
    uint64_t sum; /* of their digests, modulo 2^64 */
    uint64_t lowest, highest;
} ssmd_sum;

/* SipHash-1-3 of `data` under the key (k0, k1). */
SSMD_API uint64_t ssmd_digest(uint64_t k0, uint64_t k1, const uint8_t *data, uint64_t n);

/* Sums up the records of data[0..n): a row for each run of one block, in *count; *used bytes are done with.
 *
 * Checkpoints have no number and are passed over, counted in *checkpoints. SSMD_MORE: `rows` is full, call again from
 * data + *used. SSMD_DAMAGED: no whole record begins at data + *used. `block_numbers` > 0.
 */
SSMD_API int ssmd_sums_read(uint64_t k0, uint64_t k1, const uint8_t *data, uint64_t n, uint64_t block_numbers,
                            ssmd_sum *rows, uint64_t capacity, uint64_t *count, uint64_t *used, uint64_t *checkpoints);

#ifdef __cplusplus
}
#endif
#endif /* SSMD_SUMS_H */
