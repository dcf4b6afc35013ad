/* walk.c - checks and reads records and segments. See walk.h for what the functions promise.
 *
 *   record   | u32 0 | u32 words | root pointer | Record: 8 words data, 2 pointers | body | texts, lists | frame |
 *            0       4           8              16                    80          96
 *
 * Nothing in a record is believed before it was checked, whoever wrote it: damage, a cut or a hostile file must
 * give a fault, not a crash. The check is in two layers. The generic one follows every pointer, known or not, and
 * demands that each object lies inside the record and that all objects together are no larger than it (so no
 * circles, no amplification): records of a later schema, whose structs are larger and hold more pointers, pass.
 * The typed one is a table: how large the body of each kind must be at least, and which of its pointers are
 * texts, data or lists of levels. The numbers come from `capnp compile -ocapnp schemas/market_data.capnp`; tests read
 * the same records with pycapnp.
 *
 * Loads go through memcpy: the caller's buffer may begin anywhere.
 */
#include "walk.h"

#include <string.h>

#include "crc32c.h"
#include "load_internal.h"

enum {
    TABLE_BYTES = 8,       /* segment table of a message with one segment */
    RECORD_DATA_WORDS = 8, /* of struct Record, version 1 */
    RECORD_POINTERS = 2,   /* frame, body */
    DEPTH_LIMIT = 8,       /* Record, body, list, struct is 4; room for later schemas */
    LEVEL_WORDS = 2,
    HEADER_POINTERS = 2, /* of struct Entry.Header: name, value */
    NO_POINTER = 0xff
};

/* Field types of a body's pointers, four bits each, pointer 0 lowest. */
enum { ANY = 0, TEXT = 1, DATA = 2, LEVELS = 3, HEADERS = 4 };
#define POINTERS(p0, p1, p2, p3) (uint16_t)((p0) | (p1) << 4 | (p2) << 8 | (p3) << 12)

typedef struct shape {
    uint8_t data_words;
    uint8_t pointers;
    uint16_t types;     /* POINTERS(...) */
    uint8_t sub_offset; /* byte of the leading enum in the data section; without one there is no enum */
    uint8_t market;     /* which pointer is the market, or NO_POINTER */
} shape;

static const shape SHAPES[SSMD_KIND_COUNT] = {
    [SSMD_KIND_UNPARSED] = {1, 1, POINTERS(TEXT, 0, 0, 0), 0, NO_POINTER},
    [SSMD_KIND_TRADE] = {2, 2, POINTERS(TEXT, TEXT, 0, 0), 4, 0},
    [SSMD_KIND_TICKER] = {9, 1, POINTERS(TEXT, 0, 0, 0), 0, 0},
    [SSMD_KIND_BOOK] = {4, 3, POINTERS(TEXT, LEVELS, LEVELS, 0), 0, 0},
    [SSMD_KIND_STATUS] = {5, 4, POINTERS(TEXT, TEXT, TEXT, TEXT), 0, 0},
    [SSMD_KIND_INDEX] = {4, 1, POINTERS(TEXT, 0, 0, 0), 0, NO_POINTER},
    [SSMD_KIND_CONTROL] = {3, 2, POINTERS(TEXT, TEXT, 0, 0), 0, NO_POINTER},
    [SSMD_KIND_GAP] = {6, 2, POINTERS(DATA, TEXT, 0, 0), 0, NO_POINTER},
    [SSMD_KIND_CONNECTION] = {5, 3, POINTERS(TEXT, TEXT, TEXT, 0), 0, NO_POINTER},
    [SSMD_KIND_CLOCK] = {5, 0, 0, 24, NO_POINTER},
    [SSMD_KIND_CHECKPOINT] = {5, 0, 0, 32, NO_POINTER},
    [SSMD_KIND_ENTRY] = {0, 3, POINTERS(TEXT, HEADERS, DATA, 0), 0, NO_POINTER},
};

enum { WHAT_STOPPED = 5 }; /* ConnectionEvent.What */

const char *ssmd_fault_text(int fault)
{
    switch (fault) {
    case SSMD_FAULT_NONE: return "nothing is wrong";
    case SSMD_FAULT_INCOMPLETE: return "incomplete record";
    case SSMD_FAULT_ZEROS: return "zero bytes instead of a record";
    case SSMD_FAULT_FRAMING: return "no record begins here";
    case SSMD_FAULT_SIZE: return "impossible record length";
    case SSMD_FAULT_ROOT: return "the root is no Record";
    case SSMD_FAULT_POINTER: return "bad pointer in the record";
    case SSMD_FAULT_BODY: return "the record's body does not fit its kind";
    case SSMD_FAULT_FIELD: return "bad text, data or list in the record";
    case SSMD_FAULT_CRC: return "CRC-32C does not match";
    case SSMD_FAULT_CHECKPOINT: return "the checkpoint does not fit its place";
    case SSMD_FAULT_TRAILING: return "bytes after the final checkpoint";
    case SSMD_FAULT_UNSEALED: return "no final checkpoint at the end of a sealed segment";
    default: return "unknown fault";
    }
}

/* ---- pointers ------------------------------------------------------------------------------- */

/* The words of one record's segment; places are word indices. */
typedef struct arena {
    const uint8_t *base;
    int64_t words;
    int64_t budget; /* words that further objects may take */
} arena;

static inline uint64_t word_at(const arena *in, int64_t place)
{
    return load_64(in->base + 8 * place);
}

/* Target of the struct or list pointer that stands at `place`. */
static inline int64_t pointer_target(int64_t place, uint64_t pointer)
{
    return place + 1 + ((int32_t)(uint32_t)pointer >> 2);
}

static inline unsigned pointer_kind(uint64_t pointer)
{
    return (unsigned)(pointer & 3);
}
enum { POINTER_STRUCT = 0, POINTER_LIST = 1 };

static inline int64_t struct_data_words(uint64_t pointer)
{
    return (int64_t)(pointer >> 32 & 0xffff);
}

static inline int64_t struct_pointers(uint64_t pointer)
{
    return (int64_t)(pointer >> 48);
}

static inline unsigned list_size_code(uint64_t pointer)
{
    return (unsigned)(pointer >> 32 & 7);
}
enum { LIST_BYTES = 2, LIST_POINTERS = 6, LIST_COMPOSITE = 7 };

static inline int64_t list_count(uint64_t pointer)
{
    return (int64_t)(pointer >> 35);
}

/* Words that a list takes at its target. */
static int64_t list_words(uint64_t pointer)
{
    static const uint8_t bits[8] = {0, 1, 8, 16, 32, 64, 64, 0};
    unsigned code = list_size_code(pointer);
    if (code == LIST_COMPOSITE)
        return list_count(pointer) + 1;
    return (list_count(pointer) * bits[code] + 63) / 64;
}

static bool object_take(arena *in, int64_t target, int64_t words)
{
    if (target < 0 || words > in->words || target > in->words - words || words > in->budget)
        return false;
    in->budget -= words;
    return true;
}

static bool pointer_check(arena *in, int64_t place, int depth);

static bool pointers_check(arena *in, int64_t place, int64_t count, int depth)
{
    for (int64_t i = 0; i < count; i++)
        if (!pointer_check(in, place + i, depth))
            return false;
    return true;
}

/* A list of structs: a tag word of the form of a struct pointer whose offset is the element count. */
static bool composite_check(arena *in, int64_t target, int64_t words, int depth)
{
    uint64_t tag = word_at(in, target);
    int64_t count = (int64_t)((uint32_t)tag >> 2);
    int64_t data = struct_data_words(tag), pointers = struct_pointers(tag);
    if (pointer_kind(tag) != POINTER_STRUCT || count * (data + pointers) > words - 1)
        return false;
    if (pointers == 0)
        return true;
    for (int64_t i = 0; i < count; i++)
        if (!pointers_check(in, target + 1 + i * (data + pointers) + data, pointers, depth))
            return false;
    return true;
}

/* Follows the pointer at `place` and all below it. */
static bool pointer_check(arena *in, int64_t place, int depth)
{
    uint64_t pointer = word_at(in, place);
    if (pointer == 0)
        return true;
    if (depth == 0)
        return false;
    int64_t target = pointer_target(place, pointer);
    if (pointer_kind(pointer) == POINTER_STRUCT) {
        int64_t data = struct_data_words(pointer), pointers = struct_pointers(pointer);
        return object_take(in, target, data + pointers) && pointers_check(in, target + data, pointers, depth - 1);
    }
    if (pointer_kind(pointer) != POINTER_LIST)
        return false; /* far pointers and capabilities: never in a record */
    int64_t words = list_words(pointer);
    if (!object_take(in, target, words))
        return false;
    switch (list_size_code(pointer)) {
    case LIST_POINTERS: return pointers_check(in, target, list_count(pointer), depth - 1);
    case LIST_COMPOSITE: return composite_check(in, target, words, depth - 1);
    default: return true;
    }
}

/* ---- fields; every pointer was followed before ------------------------------------------------------ */

static inline bool is_bytes(uint64_t pointer)
{
    return pointer_kind(pointer) == POINTER_LIST && list_size_code(pointer) == LIST_BYTES;
}

static bool is_text(const arena *in, int64_t place, uint64_t pointer)
{
    int64_t count = list_count(pointer);
    return is_bytes(pointer) && count > 0 && in->base[8 * pointer_target(place, pointer) + count - 1] == 0;
}

static bool is_levels(const arena *in, int64_t place, uint64_t pointer)
{
    return pointer_kind(pointer) == POINTER_LIST && list_size_code(pointer) == LIST_COMPOSITE &&
           struct_data_words(word_at(in, pointer_target(place, pointer))) >= LEVEL_WORDS;
}

static bool is_headers(const arena *in, int64_t place, uint64_t pointer);

static bool field_check(const arena *in, int64_t place, unsigned type)
{
    uint64_t pointer = word_at(in, place);
    if (pointer == 0)
        return true;
    switch (type) {
    case TEXT: return is_text(in, place, pointer);
    case DATA: return is_bytes(pointer);
    case LEVELS: return is_levels(in, place, pointer);
    case HEADERS: return is_headers(in, place, pointer);
    default: return true;
    }
}

static bool is_headers(const arena *in, int64_t place, uint64_t pointer)
{
    if (pointer_kind(pointer) != POINTER_LIST || list_size_code(pointer) != LIST_COMPOSITE)
        return false;
    int64_t target = pointer_target(place, pointer);
    uint64_t tag = word_at(in, target);
    int64_t count = (int64_t)((uint32_t)tag >> 2), data = struct_data_words(tag), pointers = struct_pointers(tag);
    if (pointers < HEADER_POINTERS)
        return false;
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < HEADER_POINTERS; j++)
            if (!field_check(in, target + 1 + i * (data + pointers) + data + j, TEXT))
                return false;
    return true;
}

/* Where the bytes of a byte list lie in the record; `less` is 1 for texts, whose count includes the NUL. */
static void span_read(const arena *in, int64_t place, uint32_t less, uint32_t *at, uint32_t *bytes)
{
    uint64_t pointer = word_at(in, place);
    *at = *bytes = 0;
    if (pointer == 0)
        return;
    *at = TABLE_BYTES + 8 * (uint32_t)pointer_target(place, pointer);
    *bytes = (uint32_t)list_count(pointer) - less;
}

static int body_read(const arena *in, int64_t place, ssmd_view *view)
{
    uint64_t pointer = word_at(in, place);
    int64_t target = pointer_target(place, pointer);
    bool known = view->kind < SSMD_KIND_COUNT;
    view->body_at = view->pointers_at = 0;
    if (pointer == 0 || pointer_kind(pointer) != POINTER_STRUCT)
        return known ? SSMD_FAULT_BODY : SSMD_FAULT_NONE;
    view->body_at = TABLE_BYTES + 8 * (uint32_t)target;
    view->pointers_at = view->body_at + 8 * (uint32_t)struct_data_words(pointer);
    if (!known)
        return SSMD_FAULT_NONE;
    const shape *body = &SHAPES[view->kind];
    if (struct_data_words(pointer) < body->data_words || struct_pointers(pointer) < body->pointers)
        return SSMD_FAULT_BODY;
    int64_t fields = target + struct_data_words(pointer);
    for (unsigned i = 0; i < body->pointers; i++)
        if (!field_check(in, fields + i, body->types >> 4 * i & 15))
            return SSMD_FAULT_FIELD;
    view->sub = body->data_words == 0 ? 0 : load_16(in->base + 8 * target + body->sub_offset);
    if (view->kind == SSMD_KIND_CHECKPOINT)
        view->sub &= 1;
    if (view->kind == SSMD_KIND_TICKER)
        view->sub = 0;
    if (body->market != NO_POINTER)
        span_read(in, fields + body->market, 1, &view->market_at, &view->market_bytes);
    return SSMD_FAULT_NONE;
}

/* ---- one record -------------------------------------------------------------------------------- */

/* Length of the record at `at` from its segment table. */
static int framing_read(const uint8_t *at, uint64_t n, uint64_t *length)
{
    if (n < TABLE_BYTES)
        return SSMD_FAULT_INCOMPLETE;
    uint64_t words = load_32(at + 4);
    if (load_32(at) != 0)
        return SSMD_FAULT_FRAMING;
    if (words == 0)
        return SSMD_FAULT_ZEROS;
    *length = TABLE_BYTES + 8 * words;
    if (*length < SSMD_RECORD_HEADER_BYTES || *length > SSMD_RECORD_LIMIT)
        return SSMD_FAULT_SIZE;
    return n < *length ? SSMD_FAULT_INCOMPLETE : SSMD_FAULT_NONE;
}

int ssmd_view_read(const uint8_t *at, uint64_t n, ssmd_view *view)
{
    uint64_t length;
    int fault = framing_read(at, n, &length);
    if (fault != SSMD_FAULT_NONE)
        return fault;
    arena in = {at + TABLE_BYTES, (int64_t)(length - TABLE_BYTES) / 8, (int64_t)(length - TABLE_BYTES) / 8 - 1};
    uint64_t root = word_at(&in, 0);
    /* Fixed offsets (ssmd.h) rest on the Record struct following its pointer at once. */
    if ((uint32_t)root != 0 || struct_data_words(root) < RECORD_DATA_WORDS || struct_pointers(root) < RECORD_POINTERS)
        return SSMD_FAULT_ROOT;
    if (!pointer_check(&in, 0, DEPTH_LIMIT))
        return SSMD_FAULT_POINTER;

    *view = (ssmd_view){
        .number = load_64(at + SSMD_RECORD_NUMBER),
        .recv_ns = (int64_t)load_64(at + SSMD_RECORD_RECV_NS),
        .recv_ticks = load_64(at + SSMD_RECORD_RECV_TICKS),
        .exchange_ns = (int64_t)load_64(at + SSMD_RECORD_EXCHANGE_NS),
        .sent_ns = (int64_t)load_64(at + SSMD_RECORD_SENT_NS),
        .seq = load_64(at + SSMD_RECORD_SEQ),
        .connection = load_32(at + SSMD_RECORD_CONNECTION),
        .sid = load_32(at + SSMD_RECORD_SID),
        .length = (uint32_t)length,
        .kind = load_16(at + SSMD_RECORD_KIND),
    };
    int64_t frame = 1 + struct_data_words(root);
    if (!field_check(&in, frame, DATA))
        return SSMD_FAULT_FIELD;
    span_read(&in, frame, 0, &view->frame_at, &view->frame_bytes);
    return body_read(&in, frame + 1, view);
}

/* ---- checkpoints -------------------------------------------------------------------------------- */

void ssmd_checkpoint_read(const uint8_t *at, const ssmd_view *view, ssmd_checkpoint *checkpoint)
{
    const uint8_t *body = at + view->body_at;
    checkpoint->crc32c = load_32(body);
    checkpoint->max_connection = load_32(body + 4);
    checkpoint->bytes = load_64(body + 8);
    checkpoint->offset = load_64(body + 16);
    checkpoint->records = load_64(body + 24);
    checkpoint->final = body[32] & 1;
}

uint32_t ssmd_checkpoint_crc(uint32_t crc, const uint8_t *at, const ssmd_view *view)
{
    static const uint8_t zeros[4];
    crc = ssmd_crc32c(crc, at, view->body_at);
    crc = ssmd_crc32c(crc, zeros, sizeof zeros);
    return ssmd_crc32c(crc, at + view->body_at + sizeof zeros, view->length - view->body_at - sizeof zeros);
}

/* ---- one segment -------------------------------------------------------------------------------- */

static int walk_fault(ssmd_walk *walk, int fault, uint64_t offset)
{
    walk->fault = fault;
    walk->fault_offset = offset;
    return SSMD_DAMAGED;
}

static void mark_record(ssmd_walk *walk, const ssmd_view *view)
{
    ssmd_mark *mark = &walk->at;
    mark->offset += view->length;
    mark->records++;
    mark->last_number = view->number;
    mark->last_recv_ns = view->recv_ns;
    if (view->connection > mark->max_connection)
        mark->max_connection = view->connection;
    mark->clean = view->kind == SSMD_KIND_CONNECTION && view->sub == WHAT_STOPPED;
    if (walk->first_number == 0)
        walk->first_number = view->number;
}

/* `crc` covers the batch up to the checkpoint. */
static int mark_checkpoint(ssmd_walk *walk, uint32_t crc, const uint8_t *at, const ssmd_view *view)
{
    ssmd_mark *mark = &walk->at;
    ssmd_checkpoint checkpoint;
    ssmd_checkpoint_read(at, view, &checkpoint);
    if (ssmd_checkpoint_crc(crc, at, view) != checkpoint.crc32c)
        return walk_fault(walk, SSMD_FAULT_CRC, walk->good.offset);
    if (checkpoint.offset != mark->offset || checkpoint.records != mark->records ||
        checkpoint.bytes != mark->offset + view->length - walk->good.offset ||
        checkpoint.max_connection < mark->max_connection || (mark->records > 0 && view->number != mark->last_number))
        return walk_fault(walk, SSMD_FAULT_CHECKPOINT, mark->offset);
    mark->offset += view->length;
    mark->max_connection = checkpoint.max_connection;
    if (mark->records == 0)
        mark->last_number = view->number;
    walk->good = *mark;
    walk->crc = 0;
    walk->final = checkpoint.final;
    walk->checkpoints++;
    return SSMD_OK;
}

int ssmd_walk_next(ssmd_walk *walk, const uint8_t *data, uint64_t n)
{
    if (walk->fault != SSMD_FAULT_NONE)
        return SSMD_DAMAGED;
    if (walk->final && n > 0)
        return walk_fault(walk, SSMD_FAULT_TRAILING, walk->at.offset);
    const uint64_t start = walk->at.offset;
    for (;;) {
        uint64_t done = walk->at.offset - start;
        ssmd_view view;
        int fault = ssmd_view_read(data + done, n - done, &view);
        if (fault != SSMD_FAULT_NONE || view.kind == SSMD_KIND_CHECKPOINT)
            walk->crc = ssmd_crc32c(walk->crc, data, done);
        if (fault == SSMD_FAULT_INCOMPLETE)
            return SSMD_EMPTY;
        if (fault != SSMD_FAULT_NONE)
            return walk_fault(walk, fault, walk->at.offset);
        if (view.kind == SSMD_KIND_CHECKPOINT)
            return mark_checkpoint(walk, walk->crc, data + done, &view);
        mark_record(walk, &view);
    }
}

int ssmd_walk_end(ssmd_walk *walk, uint64_t n, bool sealed)
{
    if (walk->fault != SSMD_FAULT_NONE)
        return SSMD_DAMAGED;
    if (n > 0)
        return walk_fault(walk, walk->final ? SSMD_FAULT_TRAILING : SSMD_FAULT_INCOMPLETE, walk->at.offset);
    if (sealed && !walk->final)
        return walk_fault(walk, SSMD_FAULT_UNSEALED, walk->good.offset);
    return SSMD_OK;
}

int ssmd_walk_scan(ssmd_walk *walk, const uint8_t *data, uint64_t n, bool sealed)
{
    const uint64_t start = walk->at.offset;
    int status = SSMD_OK;
    while (status == SSMD_OK && walk->at.offset - start < n)
        status = ssmd_walk_next(walk, data + (walk->at.offset - start), n - (walk->at.offset - start));
    return status == SSMD_DAMAGED ? status : ssmd_walk_end(walk, n - (walk->at.offset - start), sealed);
}

/* ---- after damage --------------------------------------------------------------------------------- */

enum { RESYNC_WORK = 16, CHECKPOINT_LIMIT = 1024 /* bytes: far more than one of a later schema will have */ };

static bool may_be_checkpoint(const uint8_t *at)
{
    uint64_t length = TABLE_BYTES + 8ull * load_32(at + 4);
    return load_32(at) == 0 && length >= SSMD_RECORD_HEADER_BYTES && length <= CHECKPOINT_LIMIT &&
           load_16(at + SSMD_RECORD_KIND) == SSMD_KIND_CHECKPOINT;
}

/* Counts the numbered records in data[0..n), which hold nothing else; their first number, or 0. */
static bool batch_count(const uint8_t *data, uint64_t n, uint64_t *records, uint64_t *first_number)
{
    *records = *first_number = 0;
    while (n > 0) {
        ssmd_view view;
        if (ssmd_view_read(data, n, &view) != SSMD_FAULT_NONE || view.kind == SSMD_KIND_CHECKPOINT)
            return false;
        if ((*records)++ == 0)
            *first_number = view.number;
        data += view.length;
        n -= view.length;
    }
    return true;
}

/* Does the checkpoint at data + at, whose view this is, prove its batch? The walk that would do it is the proof. */
static bool batch_proves(const ssmd_walk *walk, const uint8_t *data, uint64_t offset, uint64_t at,
                         const ssmd_view *view, uint64_t *budget, ssmd_walk *proved)
{
    ssmd_checkpoint checkpoint;
    uint64_t records, first_number, end = at + view->length;
    ssmd_checkpoint_read(data + at, view, &checkpoint);
    if (checkpoint.offset != offset + at || checkpoint.bytes < view->length || checkpoint.bytes > end ||
        checkpoint.bytes > *budget || offset + end - checkpoint.bytes < walk->good.offset)
        return false;
    *budget -= checkpoint.bytes;
    const uint8_t *batch = data + (end - checkpoint.bytes);
    if (!batch_count(batch, checkpoint.bytes - view->length, &records, &first_number) ||
        checkpoint.records < walk->good.records + records)
        return false;
    *proved = (ssmd_walk){.first_number = walk->first_number, .checkpoints = walk->checkpoints};
    proved->at = walk->good;
    proved->at.offset = offset + end - checkpoint.bytes;
    proved->at.records = checkpoint.records - records;
    proved->at.last_number = records > 0 ? first_number - 1 : view->number;
    proved->at.clean = 0;
    proved->good = proved->at;
    ssmd_walk trial = *proved;
    return ssmd_walk_next(&trial, batch, checkpoint.bytes) == SSMD_OK && trial.good.offset == offset + end;
}

int ssmd_walk_resync(ssmd_walk *walk, const uint8_t *data, uint64_t n, uint64_t offset, uint64_t *place)
{
    uint64_t budget = RESYNC_WORK * n, cut = UINT64_MAX, at = *place - offset;
    for (; at + SSMD_RECORD_HEADER_BYTES <= n; at += 8) { /* all records are whole words */
        ssmd_view view;
        ssmd_walk proved;
        if (!may_be_checkpoint(data + at))
            continue;
        int fault = ssmd_view_read(data + at, n - at, &view);
        if (fault == SSMD_FAULT_INCOMPLETE && cut == UINT64_MAX)
            cut = at;
        if (fault == SSMD_FAULT_NONE && batch_proves(walk, data, offset, at, &view, &budget, &proved)) {
            *walk = proved;
            return SSMD_OK;
        }
    }
    *place = offset + (cut < at ? cut : at);
    return SSMD_EMPTY;
}

/* ---- views -------------------------------------------------------------------------------------- */

static uint64_t filter_bit(const ssmd_view *view)
{
    if (view->kind >= SSMD_KIND_COUNT)
        return SSMD_FILTER_LATER;
    if (view->kind == SSMD_KIND_BOOK && view->sub == 1)
        return SSMD_FILTER_DELTA;
    return 1ull << view->kind;
}

static bool filter_market(const ssmd_filter *filter, const uint8_t *at, const ssmd_view *view)
{
    if (view->market_bytes == 0)
        return false;
    const char *name = filter->markets;
    for (uint32_t i = 0; i < filter->market_count; i++) {
        size_t length = strlen(name);
        if (length == view->market_bytes && memcmp(name, at + view->market_at, length) == 0)
            return true;
        name += length + 1;
    }
    return false;
}

static bool filter_pass(const ssmd_filter *filter, const uint8_t *at, const ssmd_view *view)
{
    return (filter->kinds & filter_bit(view)) != 0 && view->recv_ns >= filter->from_ns &&
           view->recv_ns < filter->to_ns && (filter->markets == NULL || filter_market(filter, at, view));
}

int ssmd_views_read(const uint8_t *data, uint64_t n, uint64_t offset, const ssmd_filter *filter, ssmd_view *views,
                    uint64_t capacity, uint64_t *count, uint64_t *used)
{
    *count = *used = 0;
    while (*used < n) {
        if (*count == capacity)
            return SSMD_MORE;
        ssmd_view *view = &views[*count];
        int fault = ssmd_view_read(data + *used, n - *used, view);
        if (fault == SSMD_FAULT_INCOMPLETE)
            return SSMD_OK;
        if (fault != SSMD_FAULT_NONE)
            return SSMD_DAMAGED;
        view->offset = offset + *used;
        if (filter == NULL || filter_pass(filter, data + *used, view))
            (*count)++;
        *used += view->length;
    }
    return SSMD_OK;
}
