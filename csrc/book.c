/* book.c - see book_internal.h. Loads go through memcpy: a record may begin anywhere. */
#include "book_internal.h"

#include <stdlib.h>
#include <string.h>

#include "load_internal.h"

/* Index of the first level whose price is not below `price_e4`. */
static uint32_t side_find(const ssmd_side *s, int32_t price_e4)
{
    uint32_t low = 0, high = s->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (s->levels[middle].price_e4 < price_e4)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool side_reserve(ssmd_side *s, uint32_t count)
{
    if (count <= s->capacity)
        return true;
    uint32_t more = count < 8 ? 8 : count * 2;
    ssmd_level *moved = realloc(s->levels, more * sizeof *moved);
    if (moved == NULL)
        return false;
    s->levels = moved;
    s->capacity = more;
    return true;
}

bool ssmd_side_change(ssmd_side *s, int32_t price_e4, int64_t delta_e2, bool *negative)
{
    uint32_t at = side_find(s, price_e4);
    bool there = at < s->count && s->levels[at].price_e4 == price_e4;
    int64_t count = delta_e2;
    if (there && __builtin_add_overflow(s->levels[at].count_e2, delta_e2, &count))
        count = -1;
    *negative = count < 0;
    if (count > 0 && there) {
        s->levels[at].count_e2 = count;
    } else if (count > 0) {
        if (!side_reserve(s, s->count + 1))
            return false;
        memmove(&s->levels[at + 1], &s->levels[at], (s->count - at) * sizeof *s->levels);
        s->levels[at] = (ssmd_level){count, price_e4};
        s->count++;
    } else if (there) {
        s->count--;
        memmove(&s->levels[at], &s->levels[at + 1], (s->count - at) * sizeof *s->levels);
    }
    return true;
}

ssmd_ladder ssmd_ladder_read(const uint8_t *at, const ssmd_view *view, unsigned index)
{
    const uint8_t *place = at + view->pointers_at + 8 * index;
    uint64_t pointer = load_64(place);
    if (pointer == 0)
        return (ssmd_ladder){NULL, 0, 0};
    const uint8_t *tag = place + 8 + 8 * (int64_t)((int32_t)(uint32_t)pointer >> 2);
    uint64_t word = load_64(tag);
    return (ssmd_ladder){tag + 8, (uint32_t)word >> 2, 8 * (uint32_t)((word >> 32 & 0xffff) + (word >> 48))};
}

static int level_order(const void *a, const void *b)
{
    int32_t left = ((const ssmd_level *)a)->price_e4, right = ((const ssmd_level *)b)->price_e4;
    return (left > right) - (left < right);
}

bool ssmd_side_load(ssmd_side *s, ssmd_ladder from)
{
    if (!side_reserve(s, from.count))
        return false;
    bool sorted = true;
    for (uint32_t i = 0; i < from.count; i++) {
        const uint8_t *at = from.first + (uint64_t)i * from.stride;
        s->levels[i] = (ssmd_level){(int64_t)load_64(at + 8), load_i32(at)};
        sorted = sorted && (i == 0 || s->levels[i - 1].price_e4 < s->levels[i].price_e4);
    }
    s->count = from.count;
    if (!sorted)
        qsort(s->levels, s->count, sizeof *s->levels, level_order);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        if (kept > 0 && s->levels[kept - 1].price_e4 == s->levels[i].price_e4)
            s->levels[kept - 1].count_e2 =
                (int64_t)((uint64_t)s->levels[kept - 1].count_e2 + (uint64_t)s->levels[i].count_e2);
        else if (s->levels[i].count_e2 != 0)
            s->levels[kept++] = s->levels[i];
    }
    s->count = kept;
    return true;
}

bool ssmd_side_equal(const ssmd_side *a, const ssmd_side *b)
{
    if (a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (a->levels[i].price_e4 != b->levels[i].price_e4 || a->levels[i].count_e2 != b->levels[i].count_e2)
            return false;
    return true;
}

void ssmd_side_free(ssmd_side *side)
{
    free(side->levels);
    *side = (ssmd_side){0};
}
