typedef struct {
    int32_t status;
    int32_t sys_errno;
    int64_t value;
    int64_t expected;
    char what[128];
} ssmd_error;
const char *ssmd_status_text(int status);
