typedef struct ssmd_tally ssmd_tally;
typedef struct ssmd_totals {
    uint64_t bytes;
    uint64_t records;
    uint64_t frames;
    uint64_t frame_bytes;
    uint64_t by_kind[14];
    uint64_t first_number, last_number;
    int64_t first_recv_ns, last_recv_ns;
    uint64_t breaks;
    uint64_t channels, holes, findings;
    uint64_t books;
    uint64_t books_checked;
    uint64_t books_mismatched;
    uint64_t books_emptied;
    uint64_t levels_negative;
    uint64_t books_crossed;
    uint64_t deltas_orphaned;
} ssmd_totals;
typedef struct ssmd_channel {
    uint32_t connection, sid;
    uint64_t first_seq, last_seq;
    uint64_t frames;
    uint64_t repeats;
    uint64_t first_number;
    int64_t first_recv_ns, last_recv_ns;
    uint64_t kinds;
} ssmd_channel;
typedef struct ssmd_hole {
    uint32_t connection, sid;
    uint64_t from_seq, to_seq;
    int64_t from_ns, to_ns;
    uint64_t number;
} ssmd_hole;
typedef struct ssmd_finding {
    uint64_t offset;
    uint64_t number;
    uint64_t expected;
    uint32_t what;
    uint32_t connection;
} ssmd_finding;
typedef struct ssmd_suspect {
    uint64_t number;
    int64_t recv_ns;
    const char *market;
    uint32_t market_bytes;
    uint32_t connection, sid;
    uint32_t why;
} ssmd_suspect;
ssmd_tally *ssmd_tally_open(bool books);
void ssmd_tally_close(ssmd_tally *tally);
int ssmd_tally_add(ssmd_tally *tally, const uint8_t *data, uint64_t n, uint64_t offset, ssmd_view *events,
                            uint64_t capacity, uint64_t *count, uint64_t *used);
void ssmd_tally_totals(const ssmd_tally *tally, ssmd_totals *totals);
uint64_t ssmd_tally_channels(const ssmd_tally *tally, uint64_t first, ssmd_channel *out, uint64_t capacity);
uint64_t ssmd_tally_holes(const ssmd_tally *tally, uint64_t first, ssmd_hole *out, uint64_t capacity);
uint64_t ssmd_tally_findings(const ssmd_tally *tally, uint64_t first, ssmd_finding *out, uint64_t capacity);
uint64_t ssmd_tally_suspects(const ssmd_tally *tally, ssmd_suspect *out, uint64_t capacity);
