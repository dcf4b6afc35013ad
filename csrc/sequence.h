/* sequence.h - which sequence number a subscription owes us next.
 *
 * The exchange numbers the messages of each sid from 1, over all its markets, replies included. One tracker belongs to
 * one connection: a new connection starts anew. Looking and moving on are two steps, so that a caller whose ring is
 * full can look again later: nothing is counted twice.
 *
 * Open addressing over a fixed table; sids are small numbers, so the hash is the number itself and neighbours share
 * cache lines. At most 1024 sids, in the order of first sight; others are not tracked (docs/records.md).
 */
#ifndef SSMD_SEQUENCE_H
#define SSMD_SEQUENCE_H

#include "ssmd.h"

enum { SSMD_SEQUENCE_SIDS = 1024, SSMD_SEQUENCE_SLOTS = 2048 };

typedef struct ssmd_sequence_slot {
    uint64_t expected;
    int64_t last_recv_ns;
    uint32_t sid; /* 0 = free */
    uint32_t reserved;
} ssmd_sequence_slot;

/* All zero is a tracker that has seen nothing. */
typedef struct ssmd_sequence {
    uint32_t sids;
    uint32_t reserved;
    ssmd_sequence_slot slots[SSMD_SEQUENCE_SLOTS];
} ssmd_sequence;

typedef enum ssmd_sequence_verdict {
    SSMD_SEQUENCE_FINE,
    SSMD_SEQUENCE_GAP,      /* expected .. seq - 1 are missing */
    SSMD_SEQUENCE_REPEAT,   /* seq < expected */
    SSMD_SEQUENCE_UNTRACKED /* no number, or one sid too many */
} ssmd_sequence_verdict;

typedef struct ssmd_sequence_look {
    ssmd_sequence_verdict verdict;
    uint64_t expected;
    int64_t last_recv_ns; /* of the last tracked frame on this sid, 0 = none */
    ssmd_sequence_slot *slot;
} ssmd_sequence_look;

/* What a frame with these numbers means; changes nothing. */
void ssmd_sequence_check(ssmd_sequence *sequence, uint32_t sid, uint64_t seq, ssmd_sequence_look *look);

/* Takes the frame as seen. `look` is the answer for the same numbers. */
void ssmd_sequence_accept(ssmd_sequence *sequence, const ssmd_sequence_look *look, uint32_t sid, uint64_t seq,
                          int64_t recv_ns);

#endif
