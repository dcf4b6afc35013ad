/* test_json_portable.c - the tests of the JSON reader against its way without SSE2, compiled into this program. */
#define SSMD_PORTABLE 1
#include "../json.c"   /* NOLINT(bugprone-suspicious-include) */
#include "test_json.c" /* NOLINT(bugprone-suspicious-include) */
