/* sequence.c - see sequence.h. */
#include "sequence.h"

/* The slot of a sid, or the free one where it would go. The table is never more than half full. */
static ssmd_sequence_slot *find(ssmd_sequence *sequence, uint32_t sid)
{
    uint32_t i = sid % SSMD_SEQUENCE_SLOTS;
    while (sequence->slots[i].sid != sid && sequence->slots[i].sid != 0)
        i = (i + 1) % SSMD_SEQUENCE_SLOTS;
    return &sequence->slots[i];
}

void ssmd_sequence_check(ssmd_sequence *sequence, uint32_t sid, uint64_t seq, ssmd_sequence_look *look)
{
    look->verdict = SSMD_SEQUENCE_UNTRACKED;
    look->slot = NULL;
    look->expected = 0;
    look->last_recv_ns = 0;
    if (sid == 0 || seq == 0)
        return;
    ssmd_sequence_slot *slot = find(sequence, sid);
    bool fresh = slot->sid == 0;
    if (fresh && sequence->sids == SSMD_SEQUENCE_SIDS) {
        look->verdict = SSMD_SEQUENCE_CROWDED;
        return;
    }
    bool back = slot->before != 0 && seq >= slot->before && seq - slot->before < SSMD_SEQUENCE_JUMP;
    look->slot = slot;
    look->expected = fresh ? 1 : back ? slot->before : slot->expected;
    look->last_recv_ns = slot->last_recv_ns;
    look->verdict = seq == look->expected  ? SSMD_SEQUENCE_FINE
                    : seq > look->expected ? SSMD_SEQUENCE_GAP
                                           : SSMD_SEQUENCE_REPEAT;
}

void ssmd_sequence_accept(ssmd_sequence *sequence, const ssmd_sequence_look *look, uint32_t sid, uint64_t seq,
                          int64_t recv_ns)
{
    ssmd_sequence_slot *slot = look->slot;
    if (slot == NULL)
        return;
    if (slot->sid == 0) {
        slot->sid = sid;
        sequence->sids++;
    }
    slot->last_recv_ns = recv_ns;
    if (look->verdict == SSMD_SEQUENCE_REPEAT)
        return;
    slot->before = seq - look->expected >= SSMD_SEQUENCE_JUMP ? look->expected : 0;
    slot->expected = seq == UINT64_MAX ? seq : seq + 1;
}
