/* test_crc32c.c - CRC-32C against the published vectors, against a bit-by-bit twin, and fast against portable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "crc32c.h"

typedef uint32_t crc_function(uint32_t crc, const void *data, size_t n);
static crc_function *const WAYS[] = {ssmd_crc32c, ssmd_crc32c_portable};
enum { WAY_COUNT = sizeof WAYS / sizeof WAYS[0] };

/* The definition, one bit at a time. */
static uint32_t twin(uint32_t crc, const uint8_t *at, size_t n)
{
    crc = ~crc;
    for (; n > 0; n--, at++) {
        crc ^= *at;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
    }
    return ~crc;
}

static void fill(uint8_t *at, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        at[i] = (uint8_t)(seed >> 24);
    }
}

/* RFC 3720, B.4, and the check value of the CRC catalogue. */
static void vectors_of_rfc_3720(void **state)
{
    (void)state;
    uint8_t zeros[32] = {0}, ones[32], up[32], down[32];
    for (unsigned i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    static const uint8_t read_command[48] = {
        0x01, 0xc0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, 0x28, [40] = 0x02};
    for (int way = 0; way < WAY_COUNT; way++) {
        assert_int_equal(WAYS[way](0, zeros, 32), 0x8a9136aau);
        assert_int_equal(WAYS[way](0, ones, 32), 0x62a8ab43u);
        assert_int_equal(WAYS[way](0, up, 32), 0x46dd794eu);
        assert_int_equal(WAYS[way](0, down, 32), 0x113fdb5cu);
        assert_int_equal(WAYS[way](0, read_command, 48), 0xd9963a56u);
        assert_int_equal(WAYS[way](0, "123456789", 9), 0xe3069283u);
        assert_int_equal(WAYS[way](0, "", 0), 0);
    }
}

static void every_short_length_at_every_alignment(void **state)
{
    (void)state;
    static uint8_t data[8 + 1600];
    fill(data, sizeof data, 7);
    for (size_t start = 0; start < 8; start++)
        for (size_t n = 0; n <= 1600; n += (n < 80 ? 1 : 7))
            for (int way = 0; way < WAY_COUNT; way++)
                assert_int_equal(WAYS[way](0x12345678u, data + start, n), twin(0x12345678u, data + start, n));
}

/* 3 x 4096 is where the long lanes begin. */
static void lengths_around_the_long_lanes(void **state)
{
    (void)state;
    enum { MOST = 2 * 3 * 4096 + 3 * 256 + 20 };
    uint8_t *data = malloc(MOST);
    assert_non_null(data);
    fill(data, MOST, 9);
    static const size_t lengths[] = {12287, 12288, 12289, 12288 + 767, 12288 + 768, 24575, 24576, MOST};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        for (int way = 0; way < WAY_COUNT; way++)
            assert_int_equal(WAYS[way](0, data, lengths[i]), twin(0, data, lengths[i]));
    free(data);
}

static void values_chain_over_any_split(void **state)
{
    (void)state;
    uint8_t data[1000];
    fill(data, sizeof data, 11);
    uint32_t whole = twin(0, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut++)
        for (int way = 0; way < WAY_COUNT; way++)
            assert_int_equal(WAYS[way](WAYS[way](0, data, cut), data + cut, sizeof data - cut), whole);
}

static void the_method_has_a_name(void **state)
{
    (void)state;
    const char *name = ssmd_crc32c_method();
    assert_true(strcmp(name, "sse4.2") == 0 || strcmp(name, "armv8") == 0 || strcmp(name, "table") == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_rfc_3720),           cmocka_unit_test(every_short_length_at_every_alignment),
        cmocka_unit_test(lengths_around_the_long_lanes), cmocka_unit_test(values_chain_over_any_split),
        cmocka_unit_test(the_method_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
