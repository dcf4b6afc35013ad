/* wire.c - writer and connection feed. wire.h draws the picture.
 *
 * The order of steps for one message is what makes a full ring harmless: decode (touches nothing), look at the
 * sequence number (touches nothing), write the Gap if there is one and note that it is written, write the record, and
 * only then move on - tracker, counters, events. Stopping before any of the writes leaves a state from which the same
 * message is taken up again.
 */
#include "wire.h"

#include "capnp.h"
#include "clock.h"
#include "ring_internal.h"
#include "sequence.h"
#include "websocket.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum { EVENTS = 256, EVENTS_PER_MESSAGE = 4 + 2 * SSMD_MESSAGE_UNKNOWNS };
enum { DRIFT_NAMES = 256, DRIFT_NAME_BYTES = 64, DRIFT_PREFIX_BYTES = 6 };
enum { CARRY_BYTES = 4096, PAGE_BYTES = 4096 };
enum { DRIFT_ARENA_BYTES = EVENTS_PER_MESSAGE * (DRIFT_NAME_BYTES + DRIFT_PREFIX_BYTES) };
/* Data of events beside one whole frame: control payloads, tickers and names. */
enum { ARENA_EXTRA_BYTES = 64 * 1024 };

_Static_assert((int)SSMD_WS_REST_MAX_BYTES <= (int)CARRY_BYTES,
               "a cut header or control frame fits before the receive area");
_Static_assert(DRIFT_ARENA_BYTES + SSMD_WS_CONTROL_MAX_BYTES < ARENA_EXTRA_BYTES, "one message always fits");

#define DEFAULT_MAX_FRAME_BYTES (1u << 20)
#define DEFAULT_RECV_BYTES (512u << 10)
#define MIN_RECV_BYTES (4u << 10)
#define MAX_RECV_BYTES (16u << 20)

/* ---- writer ------------------------------------------------------------------------------- */

struct ssmd_writer {
    ssmd_ring *ring;
    ssmd_interner *markets;
    uint64_t next_number;
    _Atomic uint64_t records[SSMD_KIND_COUNT];
    _Atomic uint64_t frames, bytes, unknown_fields, unknown_types, unknown_values, malformed, repeats, gaps, untracked;
    ssmd_message message; /* scratch: 2 KiB that would otherwise be touched anew on the stack */
};

/* Only the producer's thread writes: a relaxed load and store, no locked instruction. */
static inline void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline uint64_t look(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

int ssmd_writer_open(ssmd_ring *ring, uint64_t last_number, ssmd_writer **writer)
{
    *writer = NULL;
    ssmd_writer *made = calloc(1, sizeof *made);
    if (made == NULL)
        return SSMD_NO_MEMORY;
    int status = ssmd_interner_open(0, &made->markets);
    if (status != SSMD_OK) {
        free(made);
        return status;
    }
    made->ring = ring;
    made->next_number = last_number + 1;
    *writer = made;
    return SSMD_OK;
}

void ssmd_writer_close(ssmd_writer *writer)
{
    if (writer == NULL)
        return;
    ssmd_interner_close(writer->markets);
    free(writer);
}

int ssmd_writer_push(ssmd_writer *writer, const uint8_t *record, size_t n, uint64_t *number)
{
    uint8_t *at;
    *number = 0;
    if (!ssmd_record_is_framed(record, n))
        return SSMD_INVALID;
    uint16_t kind = (uint16_t)ssmd_load64(record + SSMD_RECORD_KIND);
    if (kind >= SSMD_KIND_COUNT || kind == SSMD_KIND_CHECKPOINT) /* checkpoints take no number: the flusher's */
        return SSMD_INVALID;
    int status = ssmd_ring_claim_inline(writer->ring, n, &at);
    if (status != SSMD_OK)
        return status;
    memcpy(at, record, n);
    ssmd_store64(at + SSMD_RECORD_NUMBER, writer->next_number);
    ssmd_ring_advance_inline(writer->ring, n);
    ssmd_ring_publish_inline(writer->ring);
    ssmd_ring_wake_inline(writer->ring, ssmd_clock_ticks());
    *number = writer->next_number++;
    add(&writer->records[kind], 1);
    return SSMD_OK;
}

uint64_t ssmd_writer_next_number(const ssmd_writer *writer)
{
    return writer->next_number;
}

ssmd_interner *ssmd_writer_markets(const ssmd_writer *writer)
{
    return writer->markets;
}

void ssmd_writer_counters(const ssmd_writer *writer, ssmd_counters *counters)
{
    for (unsigned i = 0; i < SSMD_KIND_COUNT; i++)
        counters->records[i] = look(&writer->records[i]);
    counters->frames = look(&writer->frames);
    counters->bytes = look(&writer->bytes);
    counters->unknown_fields = look(&writer->unknown_fields);
    counters->unknown_types = look(&writer->unknown_types);
    counters->unknown_values = look(&writer->unknown_values);
    counters->malformed = look(&writer->malformed);
    counters->repeats = look(&writer->repeats);
    counters->untracked = look(&writer->untracked);
    counters->gaps = look(&writer->gaps);
    counters->refused_names = ssmd_interner_refused(writer->markets);
}

/* ---- connection --------------------------------------------------------------------------- */

typedef enum phase { READING, MESSAGE_READY, LIMIT_PASSED, ENDED } phase;

/* Names that were told already, cut to DRIFT_NAME_BYTES, prefix included. */
typedef struct drift_table {
    uint32_t count;
    uint8_t bytes[DRIFT_NAMES];
    uint8_t names[DRIFT_NAMES][DRIFT_PREFIX_BYTES + DRIFT_NAME_BYTES];
} drift_table;

struct ssmd_conn {
    ssmd_writer *writer;
    ssmd_conn_options options;
    uint64_t limit_bytes; /* of a record */
    uint32_t flags;
    phase phase;
    bool gap_written; /* the Gap before the message that is ready is in the ring */
    const uint8_t *at;
    const uint8_t *end;
    uint64_t recv_ticks;
    ssmd_ws ws;
    ssmd_ws_message message;
    ssmd_feed_result result;
    uint64_t arena_used, arena_bytes;
    uint8_t *buffer, *assembly, *arena;
    uint64_t mapped_bytes;
    ssmd_event events[EVENTS];
    drift_table drift;
    ssmd_sequence sequence;
};

static uint64_t whole_pages(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}

/* One mapping: the struct, carry, receive area, assembly, event data. Only what is used is ever touched. */
int ssmd_conn_open(ssmd_writer *writer, const ssmd_conn_options *options, ssmd_conn **conn)
{
    *conn = NULL;
    ssmd_conn_options chosen = *options;
    if (chosen.max_frame_bytes == 0)
        chosen.max_frame_bytes = DEFAULT_MAX_FRAME_BYTES;
    if (chosen.recv_bytes == 0)
        chosen.recv_bytes = DEFAULT_RECV_BYTES;
    uint64_t limit = ssmd_ring_limit(writer->ring);
    if (chosen.recv_bytes < MIN_RECV_BYTES || chosen.recv_bytes > MAX_RECV_BYTES || chosen.max_frame_bytes > limit ||
        chosen.max_frame_bytes + SSMD_UNPARSED_OVERHEAD_BYTES > limit || chosen.max_frame_bytes > UINT32_MAX)
        return SSMD_INVALID;
    uint64_t own = whole_pages(sizeof(ssmd_conn)), recv = whole_pages(chosen.recv_bytes + SSMD_JSON_PADDING_BYTES);
    uint64_t assembly = whole_pages(chosen.max_frame_bytes + SSMD_JSON_PADDING_BYTES);
    uint64_t arena = whole_pages(chosen.max_frame_bytes + ARENA_EXTRA_BYTES);
    uint64_t all = own + CARRY_BYTES + recv + assembly + arena;
    uint8_t *at = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return SSMD_NO_MEMORY;
    ssmd_conn *made = (ssmd_conn *)(void *)at;
    made->writer = writer;
    made->options = chosen;
    made->limit_bytes = limit;
    made->flags =
        (chosen.use_yes_price != 0 ? SSMD_FRAME_USE_YES_PRICE : 0u) | (chosen.keep_frames != 0 ? SSMD_FRAME_KEEP : 0u);
    made->mapped_bytes = all;
    made->buffer = at + own + CARRY_BYTES;
    made->assembly = made->buffer + recv;
    made->arena = made->assembly + assembly;
    made->arena_bytes = arena;
    made->at = made->end = made->buffer;
    made->result.events = made->events;
    ssmd_ws_init(&made->ws, made->assembly, chosen.max_frame_bytes);
    *conn = made;
    return SSMD_OK;
}

void ssmd_conn_close(ssmd_conn *conn)
{
    if (conn != NULL)
        munmap(conn, conn->mapped_bytes);
}

uint8_t *ssmd_conn_buffer(const ssmd_conn *conn)
{
    return conn->buffer;
}
uint64_t ssmd_conn_buffer_bytes(const ssmd_conn *conn)
{
    return conn->options.recv_bytes;
}
const ssmd_feed_result *ssmd_conn_result(const ssmd_conn *conn)
{
    return &conn->result;
}

/* ---- events ------------------------------------------------------------------------------- */

/* Can the events of one message of n bytes be told? If nothing was told yet they always can. */
static bool room_for_events(const ssmd_conn *conn, uint64_t n)
{
    return conn->result.event_count + EVENTS_PER_MESSAGE <= EVENTS &&
           conn->arena_used + n + DRIFT_ARENA_BYTES + SSMD_WS_CONTROL_MAX_BYTES <= conn->arena_bytes;
}

/* A new event; its data are copied, because the places where frames stand are used again within one feed. */
static ssmd_event *tell(ssmd_conn *conn, ssmd_event_kind kind, const uint8_t *data, size_t n)
{
    ssmd_event *event = &conn->events[conn->result.event_count++];
    uint8_t *to = conn->arena + conn->arena_used;
    if (n > 0)
        memcpy(to, data, n);
    conn->arena_used += n;
    *event = (ssmd_event){.kind = kind, .data = to, .data_bytes = (uint32_t)n};
    return event;
}

static ssmd_event *tell_of(ssmd_conn *conn, ssmd_event_kind kind, const ssmd_message *message, uint64_t number,
                           ssmd_text data)
{
    ssmd_event *event = tell(conn, kind, data.at, data.n);
    event->sid = message->sid;
    event->seq = message->seq;
    event->number = number;
    return event;
}

/* One name that the decoder did not know: told at its first sight. */
static void tell_drift(ssmd_conn *conn, const char *prefix, ssmd_text text, const ssmd_message *message,
                       uint64_t number)
{
    drift_table *drift = &conn->drift;
    uint8_t name[DRIFT_PREFIX_BYTES + DRIFT_NAME_BYTES];
    size_t start = strlen(prefix), n = text.n < DRIFT_NAME_BYTES ? text.n : DRIFT_NAME_BYTES;
    memcpy(name, prefix, start);
    if (n > 0)
        memcpy(name + start, text.at, n);
    n += start;
    for (uint32_t i = 0; i < drift->count; i++)
        if (drift->bytes[i] == n && memcmp(drift->names[i], name, n) == 0)
            return;
    if (drift->count == DRIFT_NAMES)
        return;
    memcpy(drift->names[drift->count], name, n);
    drift->bytes[drift->count++] = (uint8_t)n;
    tell_of(conn, SSMD_EVENT_DRIFT, message, number, (ssmd_text){name, n});
}

static void tell_unknown_keys(ssmd_conn *conn, const ssmd_fields *fields, const ssmd_message *message, uint64_t number)
{
    uint32_t n = fields->unknowns < SSMD_MESSAGE_UNKNOWNS ? fields->unknowns : SSMD_MESSAGE_UNKNOWNS;
    for (uint32_t i = 0; i < n; i++)
        tell_drift(conn, "field:", fields->unknown[i], message, number);
}

/* Everything about a written record that is not the common case. */
static void tell_oddities(ssmd_conn *conn, const ssmd_message *message, uint64_t number)
{
    ssmd_event *event;
    if (message->kind == SSMD_KIND_UNPARSED && message->sequenced &&
        (message->reason == SSMD_REASON_MISSING_FIELD || message->reason == SSMD_REASON_BAD_FIELD ||
         message->reason == SSMD_REASON_TOO_COMPLEX)) {
        event = tell_of(conn, SSMD_EVENT_UNDECODED, message, number, message->type);
        event->reason = message->reason;
    }
    if (message->kind == SSMD_KIND_CONTROL) {
        event = tell_of(conn, SSMD_EVENT_REPLY, message, number, message->frame);
        event->sid = message->control_sid;
        event->id = message->id;
    }
    if (message->kind == SSMD_KIND_BOOK && message->snapshot && message->id > 0) {
        event = tell_of(conn, SSMD_EVENT_SNAPSHOT, message, number, message->market);
        event->id = message->id;
    }
    if (message->kind == SSMD_KIND_UNPARSED && message->reason == SSMD_REASON_UNKNOWN_TYPE)
        tell_drift(conn, "type:", message->type, message, number);
    if (message->unknown_fields > 0) {
        tell_unknown_keys(conn, &message->envelope, message, number);
        if (message->msg_read)
            tell_unknown_keys(conn, &message->msg, message, number);
    }
    if (message->unknown_value.n > 0)
        tell_drift(conn, "value:", message->unknown_value, message, number);
}

/* ---- messages ----------------------------------------------------------------------------- */

static ssmd_record_header header_for(const ssmd_conn *conn)
{
    return (ssmd_record_header){.number = conn->writer->next_number,
                                .recv_ns = conn->result.last_recv_ns,
                                .recv_ticks = conn->recv_ticks,
                                .connection = conn->options.connection};
}

/* A Gap record into the ring. False: no room. */
static bool write_gap(ssmd_conn *conn, uint32_t sid, const ssmd_gap *gap)
{
    ssmd_writer *writer = conn->writer;
    uint8_t *at;
    if (ssmd_ring_claim_inline(writer->ring, ssmd_gap_bytes(gap), &at) != SSMD_OK)
        return false;
    ssmd_record_header header = header_for(conn);
    header.sid = sid;
    ssmd_ring_advance_inline(writer->ring, ssmd_gap_write(at, &header, gap));
    writer->next_number++;
    add(&writer->records[SSMD_KIND_GAP], 1);
    add(&writer->gaps, 1);
    return true;
}

/* The Gap before a record whose number jumped, with its event. False: no room. */
static bool write_sequence_gap(ssmd_conn *conn, const ssmd_message *message, const ssmd_sequence_look *look_at)
{
    ssmd_gap gap = {.cause = SSMD_GAP_SEQUENCE,
                    .from_seq = look_at->expected,
                    .to_seq = message->seq - 1,
                    .from_ns = look_at->last_recv_ns,
                    .to_ns = conn->result.last_recv_ns};
    uint64_t number = conn->writer->next_number;
    if (!write_gap(conn, message->sid, &gap))
        return false;
    ssmd_event *event = tell_of(conn, SSMD_EVENT_GAP, message, number, (ssmd_text){NULL, 0});
    event->first = gap.from_seq;
    event->last = gap.to_seq;
    conn->gap_written = true;
    return true;
}

static void count(ssmd_writer *writer, const ssmd_message *message)
{
    add(&writer->records[message->kind], 1);
    add(&writer->frames, 1);
    add(&writer->bytes, message->frame.n);
    if (SSMD_UNLIKELY(message->unknown_fields + message->malformed > 0)) {
        add(&writer->unknown_fields, message->unknown_fields);
        add(&writer->malformed, message->malformed);
    }
    if (SSMD_UNLIKELY(message->unknown_value.n > 0))
        add(&writer->unknown_values, 1);
    if (message->kind == SSMD_KIND_UNPARSED && message->reason == SSMD_REASON_UNKNOWN_TYPE)
        add(&writer->unknown_types, 1);
}

/* A text or binary message: its record, and what comes with it. A NUL stands behind it (see handle_data). */
static int write_record(ssmd_conn *conn)
{
    ssmd_writer *writer = conn->writer;
    ssmd_message *message = &writer->message;
    uint32_t flags = conn->flags | (conn->message.opcode == SSMD_WS_BINARY ? SSMD_FRAME_BINARY : 0u);
    ssmd_sequence_look seen;
    uint8_t *at;
    ssmd_message_decode(message, conn->message.at, conn->message.n, flags, conn->limit_bytes);
    ssmd_sequence_check(&conn->sequence, message->sid, message->seq, &seen);
    if (SSMD_UNLIKELY(seen.verdict == SSMD_SEQUENCE_GAP) && !conn->gap_written &&
        !write_sequence_gap(conn, message, &seen))
        return SSMD_FEED_FULL;
    if (SSMD_UNLIKELY(ssmd_ring_claim_inline(writer->ring, message->record_bytes, &at) != SSMD_OK))
        return SSMD_FEED_FULL;
    ssmd_record_header header = header_for(conn);
    ssmd_message_write(message, &header, at);
    ssmd_ring_advance_inline(writer->ring, message->record_bytes);
    uint64_t number = writer->next_number++;
    conn->gap_written = false;
    conn->result.frames++;
    ssmd_sequence_accept(&conn->sequence, &seen, message->sid, message->seq, header.recv_ns);
    count(writer, message);
    if (message->market.n > 0)
        ssmd_interner_note(writer->markets, ssmd_intern(writer->markets, message->market.at, message->market.n),
                           header.recv_ns, number);
    if (SSMD_UNLIKELY(seen.verdict == SSMD_SEQUENCE_CROWDED))
        add(&writer->untracked, 1);
    if (SSMD_UNLIKELY(seen.verdict == SSMD_SEQUENCE_REPEAT)) {
        add(&writer->repeats, 1);
        tell_of(conn, SSMD_EVENT_REPEAT, message, number, (ssmd_text){NULL, 0})->first = seen.expected;
    }
    tell_oddities(conn, message, number);
    return SSMD_FEED_OK;
}

/* The decoder wants a NUL behind its text. All the places where messages stand are ours, with padding behind the last
 * one: so the byte there, which may be the next frame's first, is lent for the time of decoding and writing. */
static int handle_data(ssmd_conn *conn)
{
    uint8_t *behind = (uint8_t *)conn + (conn->message.at + conn->message.n - (const uint8_t *)conn);
    uint8_t lent = *behind;
    *behind = 0;
    int status = write_record(conn);
    *behind = lent;
    return status;
}

/* The message that is ready. SSMD_FEED_OK: done with it. */
static int handle_message(ssmd_conn *conn)
{
    static const uint8_t KINDS[3] = {SSMD_EVENT_CLOSE, SSMD_EVENT_PING, SSMD_EVENT_PONG}; /* opcodes 8, 9, 10 */
    const ssmd_ws_message *message = &conn->message;
    if (SSMD_UNLIKELY(!room_for_events(conn, message->n)))
        return SSMD_FEED_MORE;
    if (SSMD_LIKELY(message->opcode < SSMD_WS_CLOSE))
        return handle_data(conn);
    tell(conn, (ssmd_event_kind)KINDS[message->opcode - SSMD_WS_CLOSE], message->at, message->n);
    return message->opcode == SSMD_WS_CLOSE ? SSMD_FEED_CLOSED : SSMD_FEED_OK;
}

/* A message beyond max_frame_bytes: a Gap record says how long it was and how it began, an event says its number. */
static int handle_limit(ssmd_conn *conn)
{
    if (!room_for_events(conn, 0))
        return SSMD_FEED_MORE;
    ssmd_gap gap = {.cause = SSMD_GAP_FRAME_TOO_LARGE,
                    .from_ns = conn->result.last_recv_ns,
                    .length_bytes = conn->message.length,
                    .head = {conn->message.at, conn->message.n}};
    uint64_t number = conn->writer->next_number;
    if (!write_gap(conn, 0, &gap))
        return SSMD_FEED_FULL;
    tell(conn, SSMD_EVENT_GAP, NULL, 0)->number = number;
    return SSMD_FEED_TOO_LARGE;
}

/* What is left goes to just before the receive area, where the next read continues it. */
static void carry(ssmd_conn *conn)
{
    size_t rest = (size_t)(conn->end - conn->at);
    memmove(conn->buffer - rest, conn->at, rest);
    conn->at = conn->buffer - rest;
    conn->end = conn->buffer;
}

/* Message after message until something stops it. */
static int run(ssmd_conn *conn)
{
    for (;;) {
        int status;
        if (conn->phase == READING) {
            status = ssmd_ws_next(&conn->ws, &conn->at, conn->end, &conn->message);
            if (status == SSMD_EMPTY) {
                carry(conn);
                return SSMD_FEED_OK;
            }
            if (status == SSMD_PROTOCOL)
                return SSMD_FEED_PROTOCOL;
            conn->phase = status == SSMD_TOO_LARGE ? LIMIT_PASSED : MESSAGE_READY;
        }
        status = conn->phase == LIMIT_PASSED ? handle_limit(conn) : handle_message(conn);
        if (status != SSMD_FEED_OK)
            return status;
        conn->phase = READING;
    }
}

/* Bytes of the last read wait for room: no others may come before they are handled. */
static bool something_left(const ssmd_conn *conn)
{
    return conn->phase == MESSAGE_READY || conn->phase == LIMIT_PASSED || conn->end > conn->buffer;
}

const char *ssmd_conn_fault(const ssmd_conn *conn)
{
    if (conn->result.status != SSMD_FEED_PROTOCOL)
        return "";
    return ssmd_ws_fault_text(&conn->ws, conn->at, conn->end);
}

int ssmd_conn_feed(ssmd_conn *conn, uint64_t received)
{
    conn->result.event_count = 0;
    conn->arena_used = 0;
    if (conn->phase == ENDED)
        return conn->result.status;
    if (received > 0) {
        if (received > conn->options.recv_bytes || something_left(conn))
            return SSMD_INVALID;
        conn->result.last_recv_ns = ssmd_clock_stamp(&conn->recv_ticks);
        conn->end = conn->buffer + received;
    }
    int status = run(conn);
    ssmd_ring_publish_inline(conn->writer->ring);
    ssmd_ring_wake_inline(conn->writer->ring, conn->recv_ticks);
    if (status == SSMD_FEED_PROTOCOL || status == SSMD_FEED_TOO_LARGE || status == SSMD_FEED_CLOSED)
        conn->phase = ENDED;
    conn->result.status = status;
    return status;
}

int ssmd_conn_receive(ssmd_conn *conn, int descriptor)
{
    ssize_t received = 0;
    conn->result.event_count = 0;
    if (something_left(conn) && conn->phase != ENDED)
        return SSMD_INVALID;
    do
        received = recv(descriptor, conn->buffer, conn->options.recv_bytes, MSG_DONTWAIT);
    while (received < 0 && errno == EINTR);
    conn->result.received = received < 0 ? -errno : received;
    if (received <= 0)
        return 1;
    return ssmd_conn_feed(conn, (uint64_t)received) != SSMD_FEED_OK || conn->result.event_count > 0;
}
