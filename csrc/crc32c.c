/* crc32c.c - CRC-32C by machine instruction where there is one, else eight bytes a step by tables.
 *
 * The instruction takes 3 cycles and a new one can start every cycle, so a single chain uses a third of
 * the machine. Long input is therefore read as three neighbouring blocks with a register each:
 *
 *     | block a (LANE) | block b (LANE) | block c (LANE) |
 *       crc -> a          0 -> b           0 -> c
 *
 * CRC without the inversions is linear: the register after a and b is shift(a) ^ b, where shift(x) is what
 * LANE zero bytes make of x. That is a linear map of 32 bits, kept as four tables of 256 words for each of
 * two lane lengths. (Method: M. Adler, "crc32c.c"; the vectors of RFC 3720 B.4 are in the test.)
 *
 * All tables are computed once when the library is loaded, before any thread can call; after that
 * they are only read.
 */
#include "crc32c.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define SSMD_CRC32C_HARDWARE 1
#define HARDWARE_NAME "sse4.2"
#define HARDWARE_TARGET __attribute__((target("sse4.2")))
#define STEP_8(crc, word) ((uint32_t)_mm_crc32_u64((crc), (word)))
#define STEP_1(crc, byte) _mm_crc32_u8((crc), (byte))
static bool hardware_present(void)
{
    return __builtin_cpu_supports("sse4.2") != 0;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#define SSMD_CRC32C_HARDWARE 1
#define HARDWARE_NAME "armv8"
#define HARDWARE_TARGET /* the assembler is told at each instruction: gcc and clang spell the attribute differently */
#define STEP_8(crc, word) step_8((crc), (word))
#define STEP_1(crc, byte) step_1((crc), (byte))
#define HWCAP_BIT_CRC32 (1ul << 7) /* asm/hwcap.h: HWCAP_CRC32 */
HARDWARE_TARGET static inline uint32_t step_8(uint32_t crc, uint64_t word)
{
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    return crc;
}
HARDWARE_TARGET static inline uint32_t step_1(uint32_t crc, uint32_t byte)
{
    __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(byte));
    return crc;
}
static bool hardware_present(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_BIT_CRC32) != 0;
}
#endif

#define POLYNOMIAL 0x82F63B78u /* 0x1EDC6F41, bits reversed */

static uint32_t byte_table[8][256]; /* [k][b]: what byte b followed by k zero bytes makes of an empty register */

static inline uint64_t load_8(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* The register after n more bytes; no inversion here and in the functions below. */
static uint32_t table_run(uint32_t crc, const uint8_t *at, size_t n)
{
    for (; n >= 8; n -= 8, at += 8) {
        uint64_t word = load_8(at) ^ crc;
        crc = byte_table[7][word & 0xff] ^ byte_table[6][(word >> 8) & 0xff] ^ byte_table[5][(word >> 16) & 0xff] ^
              byte_table[4][(word >> 24) & 0xff] ^ byte_table[3][(word >> 32) & 0xff] ^
              byte_table[2][(word >> 40) & 0xff] ^ byte_table[1][(word >> 48) & 0xff] ^ byte_table[0][word >> 56];
    }
    for (; n > 0; n--, at++)
        crc = (crc >> 8) ^ byte_table[0][(crc ^ *at) & 0xff];
    return crc;
}

#ifdef SSMD_CRC32C_HARDWARE

#define LANE_LONG 4096u
#define LANE_SHORT 256u

typedef uint32_t shift_table[4][256];
static shift_table shift_long, shift_short;
static bool use_hardware;

static inline uint32_t shift(const shift_table table, uint32_t crc)
{
    return table[0][crc & 0xff] ^ table[1][(crc >> 8) & 0xff] ^ table[2][(crc >> 16) & 0xff] ^ table[3][crc >> 24];
}

/* Three lanes of `lane` bytes each. */
HARDWARE_TARGET static inline uint32_t hardware_lanes(uint32_t crc, const uint8_t *at, size_t lane,
                                                      const shift_table table)
{
    uint32_t b = 0, c = 0;
    for (const uint8_t *end = at + lane; at < end; at += 8) {
        crc = STEP_8(crc, load_8(at));
        b = STEP_8(b, load_8(at + lane));
        c = STEP_8(c, load_8(at + 2 * lane));
    }
    return shift(table, shift(table, crc) ^ b) ^ c;
}

HARDWARE_TARGET static uint32_t hardware_run(uint32_t crc, const uint8_t *at, size_t n)
{
    for (; n >= 3 * LANE_LONG; n -= 3 * LANE_LONG, at += 3 * LANE_LONG)
        crc = hardware_lanes(crc, at, LANE_LONG, shift_long);
    for (; n >= 3 * LANE_SHORT; n -= 3 * LANE_SHORT, at += 3 * LANE_SHORT)
        crc = hardware_lanes(crc, at, LANE_SHORT, shift_short);
    for (; n >= 8; n -= 8, at += 8)
        crc = STEP_8(crc, load_8(at));
    for (; n > 0; n--, at++)
        crc = STEP_1(crc, *at);
    return crc;
}

/* Each bit of the register is followed through `lane` zero bytes; the sums over a byte's bits fill the table. */
static void shift_table_build(shift_table table, size_t lane)
{
    static const uint8_t zeros[256];
    for (unsigned bit = 0; bit < 32; bit++) {
        uint32_t crc = 1u << bit;
        for (size_t done = 0; done < lane; done += sizeof zeros)
            crc = table_run(crc, zeros, sizeof zeros);
        table[bit / 8][1u << (bit % 8)] = crc;
    }
    for (unsigned k = 0; k < 4; k++)
        for (unsigned byte = 1; byte < 256; byte++)
            table[k][byte] = table[k][byte & (byte - 1)] ^ table[k][byte & (0u - byte)];
}
#endif

__attribute__((constructor)) static void tables_build(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? POLYNOMIAL : 0);
        byte_table[0][byte] = crc;
    }
    for (unsigned k = 1; k < 8; k++)
        for (unsigned byte = 0; byte < 256; byte++) {
            uint32_t before = byte_table[k - 1][byte];
            byte_table[k][byte] = (before >> 8) ^ byte_table[0][before & 0xff];
        }
#ifdef SSMD_CRC32C_HARDWARE
    _Static_assert(LANE_LONG % 256 == 0 && LANE_SHORT % 256 == 0, "lanes are followed 256 zero bytes at a time");
    shift_table_build(shift_long, LANE_LONG);
    shift_table_build(shift_short, LANE_SHORT);
    use_hardware = hardware_present();
#endif
}

uint32_t ssmd_crc32c_portable(uint32_t crc, const void *data, size_t n)
{
    return ~table_run(~crc, data, n);
}

uint32_t ssmd_crc32c(uint32_t crc, const void *data, size_t n)
{
#ifdef SSMD_CRC32C_HARDWARE
    if (use_hardware)
        return ~hardware_run(~crc, data, n);
#endif
    return ~table_run(~crc, data, n);
}

const char *ssmd_crc32c_method(void)
{
#ifdef SSMD_CRC32C_HARDWARE
    if (use_hardware)
        return HARDWARE_NAME;
#endif
    return "table";
}
