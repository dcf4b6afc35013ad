/* test_kalshi_portable.c - the tests of the decoder against its way without SSE2, compiled into this program. */
#define SSMD_PORTABLE 1
#include "../json.c"     /* NOLINT(bugprone-suspicious-include) */
#include "../kalshi.c"   /* NOLINT(bugprone-suspicious-include) */
#include "test_kalshi.c" /* NOLINT(bugprone-suspicious-include) */
