/* status.c - the words for ssmd_status. */
#include "ssmd.h"

const char *ssmd_status_text(int status)
{
    switch (status) {
    case SSMD_OK: return "ok";
    case SSMD_FULL: return "the ring is full";
    case SSMD_EMPTY: return "nothing to read";
    case SSMD_MORE: return "more to come";
    case SSMD_TOO_LARGE: return "larger than the limit";
    case SSMD_BAD_MAGIC: return "not a file of ssmd";
    case SSMD_BAD_VERSION: return "made by another version of ssmd";
    case SSMD_BAD_SIZE: return "the size does not fit";
    case SSMD_BUSY: return "in use by another process";
    case SSMD_IO: return "a system call failed";
    case SSMD_NO_MEMORY: return "no memory";
    case SSMD_INVALID: return "an argument is out of range";
    case SSMD_PROTOCOL: return "the peer broke the WebSocket protocol";
    case SSMD_DAMAGED: return "the stored bytes do not check out";
    case SSMD_STALE: return "left over from before the last boot";
    default: return "unknown status";
    }
}
