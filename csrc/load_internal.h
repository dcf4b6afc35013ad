/* load_internal.h - numbers out of bytes that may begin anywhere: memcpy, which compilers make one load of. Not part of
 * the interface. Little-endian, like everything that ssmd reads.
 */
#ifndef SSMD_LOAD_INTERNAL_H
#define SSMD_LOAD_INTERNAL_H

#include <stdint.h>
#include <string.h>

static inline uint16_t load_16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint32_t load_32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t load_64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline int32_t load_i32(const uint8_t *at)
{
    return (int32_t)load_32(at);
}

static inline int64_t load_i64(const uint8_t *at)
{
    return (int64_t)load_64(at);
}

#endif
