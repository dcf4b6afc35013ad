uint32_t ssmd_crc32c(uint32_t crc, const void *data, size_t n);
uint32_t ssmd_crc32c_portable(uint32_t crc, const void *data, size_t n);
const char *ssmd_crc32c_method(void);
const char *ssmd_fault_text(int fault);
typedef struct {
    uint64_t offset;
    uint64_t number;
    int64_t recv_ns;
    uint64_t recv_ticks;
    int64_t exchange_ns;
    int64_t sent_ns;
    uint64_t seq;
    uint32_t connection;
    uint32_t sid;
    uint32_t length;
    uint16_t kind;
    uint16_t sub;
    uint32_t frame_at;
    uint32_t frame_bytes;
    uint32_t market_at;
    uint32_t market_bytes;
    uint32_t body_at;
    uint32_t pointers_at;
} ssmd_view;
int ssmd_view_read(const uint8_t *at, uint64_t n, ssmd_view *view);
typedef struct {
    uint64_t offset;
    uint64_t records;
    uint64_t last_number;
    int64_t last_recv_ns;
    uint32_t max_connection;
    uint32_t clean;
} ssmd_mark;
typedef struct {
    ssmd_mark at;
    ssmd_mark good;
    uint64_t first_number;
    uint64_t fault_offset;
    int32_t fault;
    uint32_t crc;
    uint32_t final;
    uint32_t checkpoints;
} ssmd_walk;
int ssmd_walk_next(ssmd_walk *walk, const uint8_t *data, uint64_t n);
int ssmd_walk_end(ssmd_walk *walk, uint64_t n, bool sealed);
int ssmd_walk_resync(ssmd_walk *walk, const uint8_t *data, uint64_t n, uint64_t offset, uint64_t *place);
int ssmd_walk_scan(ssmd_walk *walk, const uint8_t *data, uint64_t n, bool sealed);
typedef struct {
    uint64_t kinds;
    int64_t from_ns;
    int64_t to_ns;
    const char *markets;
    uint32_t market_count;
} ssmd_filter;
int ssmd_views_read(const uint8_t *data, uint64_t n, uint64_t offset, const ssmd_filter *filter, ssmd_view *views,
                    uint64_t capacity, uint64_t *count, uint64_t *used);
