/* test_sums.c - the digest against a twin that gives the published SipHash-2-4 vectors, sums against plain loops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard.h"
#include "sums.h"

/* The paper's description, with its two parameters, byte by byte. */
static uint64_t twin(unsigned c, unsigned d, uint64_t k0, uint64_t k1, const uint8_t *data, size_t n)
{
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
                     k1 ^ 0x7465646279746573u};
    for (size_t word = 0; word <= n / 8; word++) {
        uint64_t m = word == n / 8 ? (uint64_t)(n & 0xff) << 56 : 0;
        for (size_t i = 0; i < 8 && word * 8 + i < n; i++)
            m |= (uint64_t)data[word * 8 + i] << (8 * i);
        v[3] ^= m;
        for (unsigned round = 0; round < c + (word == n / 8 ? d : 0); round++) {
            if (word == n / 8 && round == c) {
                v[0] ^= m;
                v[2] ^= 0xff;
            }
            v[0] += v[1], v[2] += v[3];
            v[1] = (v[1] << 13 | v[1] >> 51) ^ v[0], v[3] = (v[3] << 16 | v[3] >> 48) ^ v[2];
            v[0] = v[0] << 32 | v[0] >> 32;
            v[2] += v[1], v[0] += v[3];
            v[1] = (v[1] << 17 | v[1] >> 47) ^ v[2], v[3] = (v[3] << 21 | v[3] >> 43) ^ v[0];
            v[2] = v[2] << 32 | v[2] >> 32;
        }
        if (word < n / 8)
            v[0] ^= m;
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static const uint64_t K0 = 0x0706050403020100u, K1 = 0x0f0e0d0c0b0a0908u;

/* The paper's appendix A, and the first of the reference implementation's vectors. */
static void the_twin_gives_the_published_vectors(void **state)
{
    (void)state;
    uint8_t bytes[15];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    assert_true(twin(2, 4, K0, K1, bytes, 15) == 0xa129ca6149be45e5u);
    assert_true(twin(2, 4, K0, K1, bytes, 0) == 0x726fdb47dd0e0e31u);
}

static void the_digest_is_the_twins_for_every_length(void **state)
{
    (void)state;
    uint8_t bytes[100];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 37 + 11);
    for (size_t n = 0; n <= sizeof bytes; n++)
        assert_true(ssmd_digest(K0, K1, bytes, n) == twin(1, 3, K0, K1, bytes, n));
    assert_true(ssmd_digest(K0, K1, bytes, 8) != ssmd_digest(K1, K0, bytes, 8));
}

enum { WORDS = 12, BYTES = 8 + 8 * WORDS };

static void record_put(uint8_t *at, uint64_t number, uint16_t kind)
{
    memset(at, (int)(number & 0x7f), BYTES);
    uint32_t head[2] = {0, WORDS};
    memcpy(at, head, sizeof head);
    memcpy(at + SSMD_RECORD_NUMBER, &number, sizeof number);
    memcpy(at + SSMD_RECORD_KIND, &kind, sizeof kind);
}

static void runs_of_one_block_are_one_row(void **state)
{
    (void)state;
    static const uint64_t numbers[] = {7, 8, 9, 12, 10, 3};
    uint8_t data[6 * BYTES];
    uint64_t digests[6];
    for (unsigned i = 0; i < 6; i++) {
        record_put(data + i * BYTES, numbers[i], SSMD_KIND_TRADE);
        digests[i] = twin(1, 3, K0, K1, data + i * BYTES, BYTES);
    }
    ssmd_sum rows[4];
    uint64_t count, used, checkpoints;
    assert_int_equal(ssmd_sums_read(K0, K1, data, sizeof data, 10, rows, 4, &count, &used, &checkpoints), SSMD_OK);
    assert_int_equal(count, 3);
    assert_int_equal(used, sizeof data);
    assert_int_equal(checkpoints, 0);
    const ssmd_sum wanted[3] = {{0, 3, digests[0] + digests[1] + digests[2], 7, 9},
                                {1, 2, digests[3] + digests[4], 10, 12},
                                {0, 1, digests[5], 3, 3}};
    assert_memory_equal(rows, wanted, sizeof wanted);
    assert_int_equal(ssmd_sums_read(K0, K1, data, sizeof data, 10, rows, 1, &count, &used, &checkpoints), SSMD_MORE);
    assert_int_equal(count, 1);
    assert_int_equal(used, 3 * BYTES);
}

static void checkpoints_are_passed_over(void **state)
{
    (void)state;
    uint8_t data[3 * BYTES];
    record_put(data, 1, SSMD_KIND_TRADE);
    record_put(data + BYTES, 0, SSMD_KIND_CHECKPOINT);
    record_put(data + 2 * BYTES, 2, SSMD_KIND_ENTRY);
    ssmd_sum rows[2];
    uint64_t count, used, checkpoints;
    assert_int_equal(ssmd_sums_read(K0, K1, data, sizeof data, 10, rows, 2, &count, &used, &checkpoints), SSMD_OK);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].count, 2);
    assert_int_equal(checkpoints, 1);
}

/* Behind the bytes lies a page that nobody may read. */
static void what_is_cut_anywhere_is_refused_where_the_record_begins(void **state)
{
    (void)state;
    uint8_t whole[2 * BYTES];
    record_put(whole, 1, SSMD_KIND_TRADE);
    record_put(whole + BYTES, 2, SSMD_KIND_TRADE);
    for (size_t n = 0; n <= sizeof whole; n++) {
        guarded guard = guard_open(n);
        const uint8_t *at = guard_copy(&guard, whole, n);
        ssmd_sum rows[2];
        uint64_t count, used, checkpoints;
        int status = ssmd_sums_read(K0, K1, at, n, 10, rows, 2, &count, &used, &checkpoints);
        assert_int_equal(status, n % BYTES == 0 ? SSMD_OK : SSMD_DAMAGED);
        assert_int_equal(used, n / BYTES * BYTES);
        guard_close(&guard);
    }
    uint32_t huge = 0xffffffffu;
    memcpy(whole + 4, &huge, sizeof huge);
    ssmd_sum rows[2];
    uint64_t count, used, checkpoints;
    assert_int_equal(ssmd_sums_read(K0, K1, whole, sizeof whole, 10, rows, 2, &count, &used, &checkpoints),
                     SSMD_DAMAGED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_twin_gives_the_published_vectors),
        cmocka_unit_test(the_digest_is_the_twins_for_every_length),
        cmocka_unit_test(runs_of_one_block_are_one_row),
        cmocka_unit_test(checkpoints_are_passed_over),
        cmocka_unit_test(what_is_cut_anywhere_is_refused_where_the_record_begins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
