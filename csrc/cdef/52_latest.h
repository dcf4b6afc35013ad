typedef struct ssmd_latest ssmd_latest;
typedef struct ssmd_last {
    uint64_t serial;
    const char *market;
    const char *trade_id;
    uint64_t number;
    int64_t recv_ns;
    uint64_t book_number;
    int64_t book_recv_ns, book_exchange_ns;
    uint64_t trade_number;
    int64_t trade_recv_ns, trade_exchange_ns;
    uint64_t ticker_number;
    int64_t ticker_recv_ns, ticker_exchange_ns;
    int64_t bid_size_e2, ask_size_e2;
    int64_t trade_count_e2;
    int64_t ticker_wide[7];
    int32_t bid_e4, ask_e4;
    int32_t trade_price_e4;
    int32_t ticker_prices[3];
    uint32_t ticker_present;
    uint32_t bid_levels, ask_levels;
    uint32_t market_bytes, trade_id_bytes;
    uint16_t sync;
    uint16_t trade_side;
    uint8_t trade_block;
    uint8_t was;
    uint8_t reserved[6];
} ssmd_last;
ssmd_latest *ssmd_latest_open(uint64_t max_markets);
void ssmd_latest_close(ssmd_latest *latest);
int ssmd_latest_add(ssmd_latest *latest, const uint8_t *data, uint64_t n, uint64_t offset, ssmd_view *views,
                             uint64_t capacity, uint64_t *count, uint64_t *used);
void ssmd_latest_doubt(ssmd_latest *latest, uint32_t sync);
uint64_t ssmd_latest_books(const ssmd_latest *latest, uint32_t connection, uint32_t sid, ssmd_last *out,
                                    uint64_t capacity);
void ssmd_latest_unsync(ssmd_latest *latest, const char *market, uint32_t market_bytes, uint32_t sync);
int ssmd_latest_carry(ssmd_latest *latest, const ssmd_last *value);
uint64_t ssmd_latest_changed(const ssmd_latest *latest, ssmd_last *out, uint64_t capacity);
void ssmd_latest_done(ssmd_latest *latest, uint64_t count, int64_t now_ns);
void ssmd_latest_again(ssmd_latest *latest);
void ssmd_latest_tend(ssmd_latest *latest, int64_t now_ns, int64_t ttl_ns);
typedef struct ssmd_latest_state {
    uint64_t number;
    int64_t recv_ns;
    int64_t waiting_ns;
    uint64_t markets, changed;
} ssmd_latest_state;
void ssmd_latest_look(const ssmd_latest *latest, ssmd_latest_state *state);
