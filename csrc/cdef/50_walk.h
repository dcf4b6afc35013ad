uint32_t ssmd_crc32c(uint32_t crc, const void *data, size_t n);
uint32_t ssmd_crc32c_portable(uint32_t crc, const void *data, size_t n);
const char *ssmd_crc32c_method(void);
