/* capnp.c - the records that no exchange sends, and a look at those that come from outside. */
#include "capnp.h"

_Static_assert(SSMD_RECORD_HEADER_BYTES == 8 + 8 + 64 + 16, "framing, root pointer, data section, two pointers");
_Static_assert(SSMD_RECORD_KIND == SSMD_RECORD_NUMBER + 448 / 8, "the union's tag is at bit 448 of the data section");
_Static_assert(SSMD_RECORD_BODY_POINTER + 8 == SSMD_RECORD_HEADER_BYTES, "the body follows its pointer");

size_t ssmd_gap_bytes(const ssmd_gap *gap)
{
    return ssmd_fixed_bytes(SSMD_KIND_GAP) + ssmd_data_bytes(gap->head.n);
}

size_t ssmd_gap_write(uint8_t *at, const ssmd_record_header *header, const ssmd_gap *gap)
{
    ssmd_record_builder builder;
    uint8_t *body = ssmd_record_begin(&builder, at, SSMD_KIND_GAP, header);
    ssmd_store16(body, (uint16_t)gap->cause);
    ssmd_store64(body + 8, gap->from_seq);
    ssmd_store64(body + 16, gap->to_seq);
    ssmd_store64i(body + 24, gap->from_ns);
    ssmd_store64i(body + 32, gap->to_ns);
    ssmd_store64(body + 40, gap->length_bytes);
    ssmd_pointer_to_bytes(&builder, builder.pointers, gap->head);
    return ssmd_record_end(&builder, (ssmd_text){NULL, 0});
}

bool ssmd_record_is_framed(const uint8_t *record, size_t n)
{
    if (n < SSMD_RECORD_HEADER_BYTES || n % 8 != 0)
        return false;
    uint64_t framing = ssmd_load64(record), root = ssmd_load64(record + 8);
    if ((framing & 0xFFFFFFFFu) != 0 || framing >> 32 != n / 8 - 1) /* one segment, of this many words */
        return false;
    return root == ((uint64_t)8 << 32 | (uint64_t)2 << 48);
}
