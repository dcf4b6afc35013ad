/* book_internal.h - one side of an order book, and the levels of a snapshot record. Not part of the interface.
 *
 * A side is an array of levels by rising price, without levels at zero: best bid last, best ask first. A change costs a
 * binary search and a move of what lies behind; Kalshi has at most 99 prices (9,999 for the finest), so that is short.
 */
#ifndef SSMD_BOOK_INTERNAL_H
#define SSMD_BOOK_INTERNAL_H

#include "walk.h"

typedef struct ssmd_level {
    int64_t count_e2;
    int32_t price_e4;
} ssmd_level;

typedef struct ssmd_side {
    ssmd_level *levels; /* by rising price */
    uint32_t count, capacity;
} ssmd_side;

/* The list of levels in a snapshot record. */
typedef struct ssmd_ladder {
    const uint8_t *first;
    uint32_t count, stride;
} ssmd_ladder;

/* The list that pointer `index` of the body leads to; the record at `at` was checked. */
ssmd_ladder ssmd_ladder_read(const uint8_t *at, const ssmd_view *view, unsigned index);

/* Replaces a side by a ladder, sorted; equal prices add up, as they would in any book. False: no memory. */
bool ssmd_side_load(ssmd_side *side, ssmd_ladder from);

/* Adds to one level; false: no memory. *negative is set when it fell below zero (and then it is taken out). */
bool ssmd_side_change(ssmd_side *side, int32_t price_e4, int64_t delta_e2, bool *negative);

bool ssmd_side_equal(const ssmd_side *a, const ssmd_side *b);

/* Gives the memory back; the side is empty then. */
void ssmd_side_free(ssmd_side *side);

#endif
