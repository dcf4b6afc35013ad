typedef struct {
    uint64_t ticks;
    int64_t wall_ns;
    uint64_t ns_per_tick_q32;
    uint64_t uncertainty_ns;
    uint32_t source;
    uint32_t reserved;
} ssmd_clock_anchor;
void ssmd_clock_anchor_read(ssmd_clock_anchor *anchor);
void ssmd_clock_anchor_current(ssmd_clock_anchor *anchor);
int64_t ssmd_clock_anchor_ns(const ssmd_clock_anchor *anchor, uint64_t ticks);
int64_t ssmd_clock_ticks_to_ns(uint64_t ticks);
int64_t ssmd_clock_stamp(uint64_t *ticks);
uint64_t ssmd_clock_now(void);
int64_t ssmd_clock_wall_ns(void);
int64_t ssmd_clock_monotonic_ns(void);
