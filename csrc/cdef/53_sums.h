typedef struct ssmd_sum {
    uint64_t block;
    uint64_t count;
    uint64_t sum;
    uint64_t lowest, highest;
} ssmd_sum;
uint64_t ssmd_digest(uint64_t k0, uint64_t k1, const uint8_t *data, uint64_t n);
int ssmd_sums_read(uint64_t k0, uint64_t k1, const uint8_t *data, uint64_t n, uint64_t block_numbers,
                   ssmd_sum *rows, uint64_t capacity, uint64_t *count, uint64_t *used, uint64_t *checkpoints);
