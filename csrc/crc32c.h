/* crc32c.h - CRC-32C (Castagnoli), the checksum of checkpoints and of the commit line.
 *
 * The usual reflected form (RFC 3720, B.4): polynomial 0x1EDC6F41, register starts at all ones and is
 * inverted at the end. Values chain: crc(crc(0, a), b) == crc(0, ab). Safe to call from any thread.
 */
#ifndef SSMD_CRC32C_H
#define SSMD_CRC32C_H

#include "ssmd.h"

#ifdef __cplusplus
extern "C" {
#endif

/* CRC of n more bytes after those that gave `crc` (0 = none yet). Picks the fastest way this machine has. */
SSMD_API uint32_t ssmd_crc32c(uint32_t crc, const void *data, size_t n);

/* The same by tables, on any machine: what the fast ways are tested against. */
SSMD_API uint32_t ssmd_crc32c_portable(uint32_t crc, const void *data, size_t n);

/* Which way ssmd_crc32c takes here: "sse4.2", "armv8" or "table". */
SSMD_API const char *ssmd_crc32c_method(void);

#ifdef __cplusplus
}
#endif
#endif
