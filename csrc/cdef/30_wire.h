typedef struct {
    uint64_t records;
    int64_t last_recv_ns;
    uint64_t last_number;
} ssmd_activity;
typedef struct ssmd_interner ssmd_interner;
int ssmd_interner_open(uint32_t max_names, ssmd_interner **interner);
void ssmd_interner_close(ssmd_interner *interner);
ssmd_interner *ssmd_interner_of_process(void);
uint32_t ssmd_intern(ssmd_interner *interner, const uint8_t *name, size_t n);
uint32_t ssmd_interner_find(const ssmd_interner *interner, const uint8_t *name, size_t n);
const uint8_t *ssmd_resolve(const ssmd_interner *interner, uint32_t id, size_t *n);
int ssmd_interner_activity(const ssmd_interner *interner, uint32_t id, ssmd_activity *activity);
uint32_t ssmd_interner_count(const ssmd_interner *interner);
uint64_t ssmd_interner_refused(const ssmd_interner *interner);

typedef struct {
    uint64_t number;
    int64_t recv_ns;
    uint64_t recv_ticks;
    uint64_t limit_bytes;
    uint32_t connection;
    uint32_t flags;
} ssmd_frame_meta;
int ssmd_normalize(const uint8_t *frame, size_t n, const ssmd_frame_meta *meta, uint8_t *out, size_t capacity,
                   size_t *written);

typedef struct ssmd_writer ssmd_writer;
typedef struct {
    uint64_t records[12];
    uint64_t frames;
    uint64_t bytes;
    uint64_t unknown_fields;
    uint64_t unknown_types;
    uint64_t unknown_values;
    uint64_t malformed;
    uint64_t repeats;
    uint64_t gaps;
    uint64_t refused_names;
    uint64_t untracked;
} ssmd_counters;
int ssmd_writer_open(ssmd_ring *ring, uint64_t last_number, ssmd_writer **writer);
void ssmd_writer_close(ssmd_writer *writer);
int ssmd_writer_push(ssmd_writer *writer, const uint8_t *record, size_t n, uint64_t *number);
uint64_t ssmd_writer_next_number(const ssmd_writer *writer);
void ssmd_writer_counters(const ssmd_writer *writer, ssmd_counters *counters);
ssmd_interner *ssmd_writer_markets(const ssmd_writer *writer);

typedef struct ssmd_conn ssmd_conn;
typedef struct {
    uint64_t max_frame_bytes;
    uint64_t recv_bytes;
    uint32_t connection;
    uint32_t use_yes_price;
    uint32_t keep_frames;
    uint32_t reserved;
} ssmd_conn_options;
typedef struct {
    uint32_t kind;
    uint32_t sid;
    uint64_t seq;
    uint64_t id;
    uint64_t number;
    uint64_t first;
    uint64_t last;
    uint32_t reason;
    uint32_t data_bytes;
    const uint8_t *data;
} ssmd_event;
typedef struct {
    int32_t status;
    uint32_t event_count;
    const ssmd_event *events;
    uint64_t frames;
    int64_t last_recv_ns;
    int64_t received;
} ssmd_feed_result;
int ssmd_conn_open(ssmd_writer *writer, const ssmd_conn_options *options, ssmd_conn **conn);
void ssmd_conn_close(ssmd_conn *conn);
uint8_t *ssmd_conn_buffer(const ssmd_conn *conn);
uint64_t ssmd_conn_buffer_bytes(const ssmd_conn *conn);
const ssmd_feed_result *ssmd_conn_result(const ssmd_conn *conn);
const char *ssmd_conn_fault(const ssmd_conn *conn);
int ssmd_conn_feed(ssmd_conn *conn, uint64_t received);
int ssmd_conn_receive(ssmd_conn *conn, int descriptor);
