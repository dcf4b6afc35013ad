/* error_internal.h - filling an ssmd_error; not part of the interface. */
#ifndef SSMD_ERROR_INTERNAL_H
#define SSMD_ERROR_INTERNAL_H

#include "ssmd.h"

#include <string.h>

/* Fills `error` (may be NULL) and gives `status` back, so that a function can return by it. */
static inline int ssmd_error_set(ssmd_error *error, int status, int sys_errno, int64_t value, int64_t expected,
                                 const char *what)
{
    if (error != NULL) {
        memset(error, 0, sizeof(*error));
        error->status = status;
        error->sys_errno = sys_errno;
        error->value = value;
        error->expected = expected;
        for (size_t i = 0; i < sizeof(error->what) - 1 && what[i] != '\0'; i++)
            error->what[i] = what[i];
    }
    return status;
}

#endif
