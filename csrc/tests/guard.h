/* guard.h - memory that ends at a page that cannot be touched: a reader that looks too far dies at once. */
#ifndef SSMD_TESTS_GUARD_H
#define SSMD_TESTS_GUARD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct guarded {
    uint8_t *mapping;
    size_t mapped;
    uint8_t *end; /* first byte that must not be touched */
} guarded;

static inline guarded guard_open(size_t bytes)
{
    const size_t page = 4096;
    size_t room = (bytes + page - 1) / page * page;
    uint8_t *at = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at + room, page, PROT_NONE) != 0)
        abort();
    return (guarded){.mapping = at, .mapped = room + page, .end = at + room};
}

/* A copy of the n bytes whose end is the guard. */
static inline uint8_t *guard_copy(const guarded *guard, const void *from, size_t n)
{
    if (n > 0)
        memcpy(guard->end - n, from, n);
    return guard->end - n;
}

static inline void guard_close(guarded *guard)
{
    munmap(guard->mapping, guard->mapped);
}

#endif
