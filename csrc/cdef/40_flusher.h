typedef struct ssmd_flusher ssmd_flusher;
typedef struct {
    const char *root;
    uint64_t sync_interval_ms;
    uint64_t sync_bytes;
    uint64_t rotate_minutes;
    uint64_t rotate_bytes;
    uint64_t nap_us;
    const int64_t *day_start_ns;
    const uint32_t *day;
    uint64_t days;
    uint32_t forget_segment;
    ...;
} ssmd_flusher_options;
const char *ssmd_flusher_what_text(uint32_t what);
int ssmd_segment_path(const char *root, uint32_t day, int64_t start_ns, uint64_t first_number, int form, char *path,
                      size_t size);
int ssmd_flusher_open(const char *ring_path, const ssmd_flusher_options *options, ssmd_flusher **flusher,
                      ssmd_error *error);
int ssmd_journal_lock(const char *root, int *lock, ssmd_error *error);
void ssmd_journal_unlock(int lock);
void ssmd_flusher_close(ssmd_flusher *flusher);
int ssmd_flusher_step(ssmd_flusher *flusher);
int ssmd_flusher_drain(ssmd_flusher *flusher);
int ssmd_flusher_finish(ssmd_flusher *flusher, bool seal);
int ssmd_flusher_fault(const ssmd_flusher *flusher, ssmd_error *error);
void ssmd_flusher_status_load(const ssmd_flusher *flusher, ssmd_flusher_status *status);
int ssmd_flusher_run(ssmd_flusher *flusher);
void ssmd_flusher_request_stop(ssmd_flusher *flusher, int kind);
int ssmd_flusher_start(ssmd_flusher *flusher, ssmd_error *error);
bool ssmd_flusher_finished(const ssmd_flusher *flusher);
int ssmd_flusher_stop(ssmd_flusher *flusher, int kind, uint64_t timeout_ms);
int ssmd_flusher_join(ssmd_flusher *flusher);
