/* sequence.h - which sequence number a subscription owes us next.
 *
 * The exchange numbers the messages of each sid from 1, over all its markets, replies included. One tracker belongs to
 * one connection: a new connection starts anew. Looking and moving on are two steps, so that a caller whose ring is
 * full can look again later: nothing is counted twice.
 *
 * One number that is wrong must not blind us for good: after a jump of SSMD_SEQUENCE_JUMP or more it is not yet said
 * which numbering is the true one. The jump is a gap; then a frame that goes on behind it confirms it, and one that
 * goes on where we were before shows that the jump was no more than a wrong number: its numbering is followed again.
 *
 * Open addressing over a fixed table; sids are small numbers, so the hash is the number itself and neighbours share
 * cache lines. At most 1024 sids, in the order of first sight; others are not tracked, and said to be so.
 */
#ifndef SSMD_SEQUENCE_H
#define SSMD_SEQUENCE_H

#include "ssmd.h"

enum { SSMD_SEQUENCE_SIDS = 1024, SSMD_SEQUENCE_SLOTS = 2048, SSMD_SEQUENCE_JUMP = 1000000 };

typedef struct ssmd_sequence_slot {
    uint64_t expected;
    int64_t last_recv_ns;
    uint64_t before; /* what was expected before a jump that nothing has confirmed yet, 0 = there was none */
    uint32_t sid;    /* 0 = free */
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
    SSMD_SEQUENCE_GAP,       /* expected .. seq - 1 are missing */
    SSMD_SEQUENCE_REPEAT,    /* seq < expected */
    SSMD_SEQUENCE_UNTRACKED, /* no number */
    SSMD_SEQUENCE_CROWDED    /* a number, on one sid too many */
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
