/* record_maker.h - smallest valid records for the tests of ring, segment and flusher.
 *
 * Layout by docs/records.md: framing, root pointer, Record (8 words, 2 pointers), then a body. Written out here
 * a second time on purpose: the tests must not take it from the code under test.
 */
#ifndef RECORD_MAKER_H
#define RECORD_MAKER_H

#include <stdint.h>
#include <string.h>

#include "ssmd.h"

enum { MAKER_HEADER = 96, MAKER_STOPPED = 5 };

static inline void maker_put(uint8_t *at, uint64_t value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static inline uint64_t maker_get(const uint8_t *at, size_t n)
{
    uint64_t value = 0;
    for (size_t i = n; i > 0; i--)
        value = value << 8 | at[i - 1];
    return value;
}

/* A record of `bytes` (a multiple of 8, 104 or more) whose body is a struct of data words filled with a pattern. */
static inline uint64_t maker_record(uint8_t *at, uint64_t number, int64_t recv_ns, uint32_t connection, uint64_t bytes)
{
    memset(at, 0, bytes);
    maker_put(at + 4, bytes / 8 - 1, 4);
    maker_put(at + 8, UINT64_C(0x0002000800000000), 8);
    maker_put(at + 16, number, 8);
    maker_put(at + 24, (uint64_t)recv_ns, 8);
    maker_put(at + 56, connection, 4);
    maker_put(at + 72, SSMD_KIND_TRADE, 2);
    maker_put(at + 88, (bytes - MAKER_HEADER) / 8 << 32, 8);
    for (uint64_t i = MAKER_HEADER; i < bytes; i++)
        at[i] = (uint8_t)(number * 31 + i);
    return bytes;
}

/* ConnectionEvent with this `what` (5 = stopped): 5 data words, 3 null pointers. */
static inline uint64_t maker_event(uint8_t *at, uint64_t number, int64_t recv_ns, uint32_t connection, uint16_t what)
{
    maker_record(at, number, recv_ns, connection, MAKER_HEADER + 64);
    memset(at + MAKER_HEADER, 0, 64);
    maker_put(at + 72, SSMD_KIND_CONNECTION, 2);
    maker_put(at + 88, UINT64_C(0x0003000500000000), 8);
    maker_put(at + MAKER_HEADER, what, 2);
    return MAKER_HEADER + 64;
}

#endif
