/* test_wire.c - writer and connection feed against a real ring: any chunking and a ring that is full at every record
 * give the same records and events; each way to end; limits. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../wire.h"
#include "record_check.h"

enum { RING_BYTES = 64 * 1024, STREAM_BYTES = 1 << 20 };

typedef struct bench {
    ssmd_ring *ring, *drain;
    ssmd_writer *writer;
    ssmd_conn *conn;
    uint8_t records[STREAM_BYTES]; /* all that was drained, stamps put to zero */
    size_t record_bytes;
    char events[1 << 18]; /* all that was told, as text */
    size_t event_bytes;
    unsigned full, more;
} bench;

static const ssmd_conn_options OPTIONS = {
    .max_frame_bytes = 8192, .recv_bytes = 16384, .connection = 5, .use_yes_price = 1, .keep_frames = 1};

static void open_bench(bench *of, const ssmd_conn_options *options)
{
    char path[] = "/tmp/ssmd-test-wire-XXXXXX";
    ssmd_error error;
    memset(of, 0, sizeof *of);
    assert_non_null(mkdtemp(path));
    char file[64];
    snprintf(file, sizeof file, "%s/ring", path);
    assert_int_equal(ssmd_ring_open(file, RING_BYTES, SSMD_PRODUCER, &of->ring, &error), SSMD_OK);
    assert_int_equal(ssmd_ring_open(file, 0, SSMD_CONSUMER, &of->drain, &error), SSMD_OK);
    unlink(file);
    rmdir(path);
    assert_int_equal(ssmd_writer_open(of->ring, 100, &of->writer), SSMD_OK);
    assert_int_equal(ssmd_conn_open(of->writer, options, &of->conn), SSMD_OK);
}

static void close_bench(bench *of)
{
    ssmd_conn_close(of->conn);
    ssmd_writer_close(of->writer);
    ssmd_ring_close(of->drain);
    ssmd_ring_close(of->ring);
}

/* Takes at most `most` bytes of whole records out of the ring. */
static void drain(bench *of, size_t most)
{
    const uint8_t *at;
    uint64_t n, taken = 0;
    if (ssmd_ring_peek(of->drain, &at, &n) != SSMD_OK)
        return;
    while (taken < n) {
        uint64_t bytes = 8 + 8 * (uint64_t)get32(at + taken + 4);
        if (taken + bytes > most && taken > 0)
            break;
        uint8_t *to = of->records + of->record_bytes;
        memcpy(to, at + taken, bytes);
        memset(to + SSMD_RECORD_RECV_NS, 0, 16); /* stamps differ from run to run */
        if (get16(to + SSMD_RECORD_KIND) == SSMD_KIND_GAP)
            memset(to + SSMD_RECORD_HEADER_BYTES + 24, 0, 16);
        of->record_bytes += bytes;
        taken += bytes;
    }
    ssmd_ring_release(of->drain, taken);
}

static void note_events(bench *of)
{
    const ssmd_feed_result *result = ssmd_conn_result(of->conn);
    for (uint32_t i = 0; i < result->event_count; i++) {
        const ssmd_event *event = &result->events[i];
        of->event_bytes += (size_t)sprintf(
            of->events + of->event_bytes, "%u sid=%u seq=%lu id=%lu number=%lu first=%lu last=%lu reason=%u %.*s\n",
            event->kind, event->sid, event->seq, event->id, event->number, event->first, event->last, event->reason,
            (int)event->data_bytes, (const char *)event->data);
        assert_true(of->event_bytes < sizeof of->events / 2);
    }
}

/* Feeds one read, going on after FULL and MORE; gives the last status. */
static int feed(bench *of, const uint8_t *bytes, size_t n, size_t drain_most)
{
    memcpy(ssmd_conn_buffer(of->conn), bytes, n);
    int status = ssmd_conn_feed(of->conn, n);
    note_events(of);
    while (status == SSMD_FEED_FULL || status == SSMD_FEED_MORE) {
        of->full += status == SSMD_FEED_FULL;
        of->more += status == SSMD_FEED_MORE;
        drain(of, drain_most);
        status = ssmd_conn_feed(of->conn, 0);
        note_events(of);
    }
    return status;
}

static int feed_all(bench *of, const uint8_t *bytes, size_t n, size_t chunk, size_t drain_most)
{
    int status = SSMD_FEED_OK;
    for (size_t at = 0; at < n && status == SSMD_FEED_OK; at += chunk)
        status = feed(of, bytes + at, n - at < chunk ? n - at : chunk, drain_most);
    drain(of, SIZE_MAX);
    return status;
}

/* ---- streams ------------------------------------------------------------------------------ */

typedef struct stream {
    uint8_t bytes[STREAM_BYTES];
    size_t n;
} stream;

static void put_frame(stream *to, uint8_t first, const char *payload, size_t n)
{
    uint8_t *at = to->bytes + to->n;
    *at++ = first;
    if (n < 126) {
        *at++ = (uint8_t)n;
    } else {
        *at++ = 126;
        *at++ = (uint8_t)(n >> 8);
        *at++ = (uint8_t)n;
    }
    memcpy(at, payload, n);
    to->n = (size_t)(at + n - to->bytes);
}

static void put_text(stream *to, const char *text)
{
    put_frame(to, 0x81, text, strlen(text));
}

static void put_delta(stream *to, unsigned sid, unsigned seq)
{
    char text[300];
    sprintf(
        text,
        "{\"type\":\"orderbook_delta\",\"sid\":%u,\"seq\":%u,\"msg\":{\"market_ticker\":\"KXM-%u\",\"price_dollars\":"
        "\"0.%04u\",\"delta_fp\":\"%u.00\",\"side\":\"yes\"}}\n",
        sid, seq, seq % 7, seq % 9999, seq);
    put_text(to, text);
}

/* A bit of everything: numbers that jump and repeat, replies, pings, fragments, drift, what cannot be decoded. */
static void put_everything(stream *to, unsigned round)
{
    char text[128];
    unsigned seq = round * 20;
    put_text(to, "{\"type\":\"subscribed\",\"id\":1,\"msg\":{\"channel\":\"orderbook_delta\",\"sid\":1}}\n");
    put_delta(to, 1, seq + 1);
    put_frame(to, 0x89, "heartbeat", 9);
    put_delta(to, 1, seq + 2);
    put_delta(to, 1, seq + 9); /* 3..8 are missing */
    put_delta(to, 1, seq + 4); /* a repeat */
    put_frame(to, 0x01, "{\"type\":\"ticker\",\"sid\":3,", 25);
    put_frame(to, 0x8a, "pong", 4);
    put_frame(to, 0x00, "\"msg\":{\"market_ticker\":", 23);
    put_frame(to, 0x80, "\"KXT\",\"price\":5}}", 17);
    sprintf(text, "{\"type\":\"news_%u\",\"sid\":9,\"seq\":%u}", round, round + 1);
    put_text(to, text);
    sprintf(text, "{\"type\":\"ticker\",\"new_%u\":1,\"msg\":{\"market_ticker\":\"K\",\"newer\":[%u]}}", round, round);
    put_text(to, text);
    put_text(to, "not json");
    put_frame(to, 0x82, "\x01\x02\x03", 3);
    sprintf(text,
            "{\"type\":\"orderbook_snapshot\",\"id\":%u,\"sid\":1,\"seq\":%u,\"msg\":{\"market_ticker\":\"KXS\"}}",
            round + 1, seq + 10);
    put_text(to, text);
    sprintf(text, "{\"type\":\"trade\",\"sid\":2,\"seq\":%u,\"msg\":{\"market_ticker\":\"K\"}}", round + 1);
    put_text(to, text);
    sprintf(text, "{\"type\":\"error\",\"id\":7,\"sid\":1,\"seq\":%u,\"msg\":{\"code\":13,\"msg\":\"no\"}}", seq + 11);
    put_text(to, text);
    for (unsigned i = 12; i <= 20; i++)
        put_delta(to, 1, seq + i);
}

static stream *everything(unsigned rounds)
{
    stream *made = calloc(1, sizeof *made);
    for (unsigned round = 0; round < rounds; round++)
        put_everything(made, round);
    return made;
}

static bench *run(const stream *of, size_t chunk, size_t drain_most)
{
    bench *made = malloc(sizeof *made);
    open_bench(made, &OPTIONS);
    assert_int_equal(feed_all(made, of->bytes, of->n, chunk, drain_most), SSMD_FEED_OK);
    return made;
}

static void done(bench *of)
{
    close_bench(of);
    free(of);
}

static void assert_same(const bench *a, const bench *b)
{
    assert_int_equal(a->record_bytes, b->record_bytes);
    assert_memory_equal(a->records, b->records, a->record_bytes);
    assert_string_equal(a->events, b->events);
}

/* ---- what holds --------------------------------------------------------------------------- */

static void every_record_is_whole_and_numbers_count_up_by_one(void **state)
{
    (void)state;
    stream *of = everything(5);
    bench *all = run(of, 16384, SIZE_MAX);
    uint64_t number = 100;
    for (size_t at = 0; at < all->record_bytes;) {
        uint64_t n = 8 + 8 * (uint64_t)get32(all->records + at + 4);
        record_view view;
        assert_true(record_check(all->records + at, n, &view));
        assert_int_equal(get64(all->records + at + SSMD_RECORD_NUMBER), ++number);
        assert_int_equal(get32(all->records + at + SSMD_RECORD_CONNECTION), 5);
        at += n;
    }
    assert_int_equal(ssmd_writer_next_number(all->writer), number + 1);
    done(all);
    free(of);
}

static void any_chunking_gives_the_same_records_and_events(void **state)
{
    (void)state;
    static const size_t CHUNKS[] = {1, 2, 3, 7, 13, 64, 125, 126, 127, 128, 129, 130, 300, 1000, 4096};
    stream *of = everything(3);
    bench *whole = run(of, 16384, SIZE_MAX);
    for (size_t i = 0; i < sizeof CHUNKS / sizeof *CHUNKS; i++) {
        bench *other = run(of, CHUNKS[i], SIZE_MAX);
        assert_same(whole, other);
        done(other);
    }
    done(whole);
    free(of);
}

/* Gap records until nothing fits any more. */
static void fill(bench *of)
{
    uint8_t gap[256] = {0};
    ssmd_record_header header = {0};
    ssmd_gap says = {.cause = SSMD_GAP_SEQUENCE};
    size_t n = ssmd_gap_write(gap, &header, &says);
    uint64_t number;
    while (ssmd_writer_push(of->writer, gap, n, &number) == SSMD_OK)
        continue;
}

static bench *run_with_a_full_ring(const stream *of, size_t drain_most)
{
    bench *made = malloc(sizeof *made);
    open_bench(made, &OPTIONS);
    fill(made);
    assert_int_equal(feed_all(made, of->bytes, of->n, 16384, drain_most), SSMD_FEED_OK);
    return made;
}

/* The ring is full at the start and gives room for one record at a time: it is full before every one, between a Gap and
 * its record too. */
static void a_ring_that_is_full_at_every_record_loses_and_doubles_nothing(void **state)
{
    (void)state;
    stream *of = everything(4);
    bench *running = run_with_a_full_ring(of, SIZE_MAX);
    for (size_t most = 1; most < 3000; most += 400) {
        bench *starved = run_with_a_full_ring(of, most);
        assert_true(starved->full > 3);
        assert_same(running, starved);
        done(starved);
    }
    done(running);
    free(of);
}

static const char EVENTS[] =
    "3 sid=1 seq=0 id=1 number=101 first=0 last=0 reason=0 "
    "{\"type\":\"subscribed\",\"id\":1,\"msg\":{\"channel\":\"orderbook_delta\",\"sid\":1}}\n\n"
    "0 sid=0 seq=0 id=0 number=0 first=0 last=0 reason=0 heartbeat\n"
    "5 sid=1 seq=9 id=0 number=104 first=3 last=8 reason=0 \n"
    "6 sid=1 seq=4 id=0 number=106 first=10 last=0 reason=0 \n"
    "1 sid=0 seq=0 id=0 number=0 first=0 last=0 reason=0 pong\n"
    "8 sid=9 seq=1 id=0 number=108 first=0 last=0 reason=0 type:news_0\n"
    "8 sid=0 seq=0 id=0 number=109 first=0 last=0 reason=0 field:new_0\n"
    "8 sid=0 seq=0 id=0 number=109 first=0 last=0 reason=0 field:newer\n"
    "4 sid=1 seq=10 id=1 number=112 first=0 last=0 reason=0 KXS\n"
    "7 sid=2 seq=1 id=0 number=113 first=0 last=0 reason=4 trade\n"
    "3 sid=1 seq=11 id=7 number=114 first=0 last=0 reason=0 "
    "{\"type\":\"error\",\"id\":7,\"sid\":1,\"seq\":11,\"msg\":{\"code\":13,\"msg\":\"no\"}}\n";

static void events_come_in_the_order_of_the_wire(void **state)
{
    (void)state;
    stream *of = everything(1);
    bench *all = run(of, 16384, SIZE_MAX);
    assert_string_equal(all->events, EVENTS);
    done(all);
    free(of);
}

static void a_jump_leaves_a_gap_record_before_the_frame(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    put_delta(of, 7, 1);
    put_delta(of, 7, 5);
    bench *all = run(of, 16384, SIZE_MAX);
    const uint8_t *at = all->records;
    record_view view;
    at += 8 + 8 * (uint64_t)get32(at + 4);
    assert_true(record_check(at, 8 + 8 * (uint64_t)get32(at + 4), &view));
    assert_int_equal(view.kind, SSMD_KIND_GAP);
    assert_int_equal(get32(at + SSMD_RECORD_SID), 7);
    assert_int_equal(get64(at + SSMD_RECORD_SEQ), 0);
    assert_int_equal(get16(view.data), 0);
    assert_int_equal(get64(view.data + 8), 2);
    assert_int_equal(get64(view.data + 16), 4);
    assert_null(view.frame);
    done(all);
    free(of);
}

/* Many more events than the array holds in one read: MORE, and all of them. */
static void more_events_than_fit_come_in_several_calls(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    for (unsigned i = 0; i < 1000; i++)
        put_frame(of, 0x89, "ping", 4);
    bench *all = malloc(sizeof *all);
    open_bench(all, &OPTIONS);
    assert_int_equal(feed_all(all, of->bytes, of->n, 16384, SIZE_MAX), SSMD_FEED_OK);
    assert_true(all->more >= 3);
    size_t told = 0;
    for (const char *at = all->events; (at = strstr(at, "ping")) != NULL; at++)
        told++;
    assert_int_equal(told, 1000);
    done(all);
    free(of);
}

/* Replies are copied whole; several large ones need more than one call. */
static void large_replies_are_told_whole(void **state)
{
    (void)state;
    static stream of;
    static char reply[8000];
    of.n = 0;
    size_t n = (size_t)sprintf(reply, "{\"type\":\"ok\",\"id\":1,\"msg\":{\"market_tickers\":[\"");
    memset(reply + n, 'K', 7000);
    sprintf(reply + n + 7000, "\"]}}");
    for (unsigned i = 0; i < 16; i++)
        put_text(&of, reply);
    bench *all = malloc(sizeof *all);
    open_bench(all, &OPTIONS);
    size_t told = 0;
    for (size_t at = 0; at < of.n; at += 16384) {
        size_t part = of.n - at < 16384 ? of.n - at : 16384;
        memcpy(ssmd_conn_buffer(all->conn), of.bytes + at, part);
        int status = ssmd_conn_feed(all->conn, part);
        for (;; status = ssmd_conn_feed(all->conn, 0)) {
            const ssmd_feed_result *result = ssmd_conn_result(all->conn);
            for (uint32_t i = 0; i < result->event_count; i++, told++) {
                assert_int_equal(result->events[i].data_bytes, strlen(reply));
                assert_memory_equal(result->events[i].data, reply, strlen(reply));
            }
            drain(all, SIZE_MAX);
            if (status == SSMD_FEED_OK)
                break;
        }
    }
    assert_int_equal(told, 16);
    done(all);
}

static void each_name_is_told_once_and_at_most_256_of_them(void **state)
{
    (void)state;
    static stream of;
    of.n = 0;
    for (int round = 0; round < 2; round++)
        for (unsigned i = 0; i < 300; i++) {
            char text[128];
            sprintf(text, "{\"type\":\"ticker\",\"field_%u\":1,\"msg\":{\"market_ticker\":\"K\"}}", i);
            put_text(&of, text);
        }
    bench *all = run(&of, 16384, SIZE_MAX);
    size_t told = 0;
    for (const char *at = all->events; (at = strstr(at, "field:")) != NULL; at++)
        told++;
    assert_int_equal(told, 256);
    ssmd_counters counters;
    ssmd_writer_counters(all->writer, &counters);
    assert_int_equal(counters.unknown_fields, 600);
    done(all);
}

static void long_names_are_cut_at_64_bytes_and_told_once(void **state)
{
    (void)state;
    static stream of;
    char text[256], name[101];
    of.n = 0;
    memset(name, 'n', 100);
    name[100] = 0;
    for (unsigned i = 0; i < 3; i++) {
        name[80] = (char)('0' + i);
        sprintf(text, "{\"type\":\"%s\"}", name);
        put_text(&of, text);
    }
    bench *all = run(&of, 16384, SIZE_MAX);
    char expected[256];
    sprintf(expected, "8 sid=0 seq=0 id=0 number=101 first=0 last=0 reason=0 type:%.64s\n", name);
    assert_string_equal(all->events, expected);
    done(all);
}

static void counters_say_what_was_written(void **state)
{
    (void)state;
    stream *of = everything(2);
    bench *all = run(of, 16384, SIZE_MAX);
    ssmd_counters counters;
    ssmd_writer_counters(all->writer, &counters);
    /* a round has 22 texts and binaries, one jump and one number that comes again */
    assert_int_equal(counters.frames, 2 * 22);
    assert_int_equal(counters.frames, ssmd_conn_result(all->conn)->frames);
    assert_int_equal(counters.records[SSMD_KIND_GAP], 2);
    assert_int_equal(counters.gaps, 2);
    assert_int_equal(counters.repeats, 2);
    assert_int_equal(counters.records[SSMD_KIND_BOOK], 2 * (4 + 1 + 9));
    assert_int_equal(counters.records[SSMD_KIND_TICKER], 2 * 2);
    assert_int_equal(counters.records[SSMD_KIND_CONTROL], 2 * 2);
    assert_int_equal(counters.records[SSMD_KIND_UNPARSED], 2 * 4); /* news, not json, binary, trade without price */
    assert_int_equal(counters.unknown_types, 2);
    assert_int_equal(counters.unknown_fields, 2 * 2);
    done(all);
    free(of);
}

static void markets_know_their_records(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    put_delta(of, 1, 1);
    put_delta(of, 1, 8); /* the same market: seq % 7 */
    bench *all = run(of, 16384, SIZE_MAX);
    ssmd_interner *markets = ssmd_writer_markets(all->writer);
    ssmd_activity activity;
    uint32_t id = ssmd_interner_find(markets, (const uint8_t *)"KXM-1", 5);
    assert_int_equal(ssmd_interner_activity(markets, id, &activity), SSMD_OK);
    assert_int_equal(activity.records, 2);
    assert_int_equal(activity.last_number, 103); /* a Gap is 102 */
    assert_int_equal(activity.last_recv_ns, ssmd_conn_result(all->conn)->last_recv_ns);
    done(all);
    free(of);
}

/* ---- ends --------------------------------------------------------------------------------- */

static bench *started(void)
{
    bench *made = malloc(sizeof *made);
    open_bench(made, &OPTIONS);
    return made;
}

static void after_a_close_frame_nothing_counts(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    put_delta(of, 1, 1);
    put_frame(of, 0x88, "\x03\xe8z", 3);
    put_delta(of, 1, 2);
    bench *all = started();
    assert_int_equal(feed(all, of->bytes, of->n, SIZE_MAX), SSMD_FEED_CLOSED);
    assert_string_equal(all->events, "2 sid=0 seq=0 id=0 number=0 first=0 last=0 reason=0 \x03\xe8z\n");
    assert_int_equal(feed(all, of->bytes, of->n, SIZE_MAX), SSMD_FEED_CLOSED);
    assert_int_equal(ssmd_conn_result(all->conn)->frames, 1);
    assert_int_equal(ssmd_conn_result(all->conn)->event_count, 0);
    done(all);
    free(of);
}

static void a_protocol_error_keeps_what_came_before(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    put_delta(of, 1, 1);
    put_frame(of, 0xc1, "{}", 2);
    bench *all = started();
    assert_int_equal(feed(all, of->bytes, of->n, SIZE_MAX), SSMD_FEED_PROTOCOL);
    assert_int_equal(ssmd_conn_feed(all->conn, 0), SSMD_FEED_PROTOCOL);
    assert_int_equal(ssmd_conn_result(all->conn)->frames, 1);
    drain(all, SIZE_MAX);
    assert_int_equal(get16(all->records + SSMD_RECORD_KIND), SSMD_KIND_BOOK);
    done(all);
    free(of);
}

static void a_message_beyond_the_limit_leaves_a_gap_record(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    bench *all = started();
    const uint8_t header[] = {0x81, 127, 0, 0, 0, 0, 0, 0x20, 0, 0, '{', '"'};
    assert_int_equal(feed(all, header, sizeof header, SIZE_MAX), SSMD_FEED_TOO_LARGE);
    assert_int_equal(ssmd_conn_feed(all->conn, 0), SSMD_FEED_TOO_LARGE);
    const uint8_t *at;
    uint64_t n;
    record_view view;
    assert_int_equal(ssmd_ring_peek(all->drain, &at, &n), SSMD_OK);
    assert_true(record_check(at, n, &view)); /* exactly one record */
    assert_int_equal(view.kind, SSMD_KIND_GAP);
    assert_int_equal(get16(view.data), 6);
    assert_int_equal(get64(view.data + 40), 0x200000);
    assert_int_equal(get64(view.data + 24), get64(at + SSMD_RECORD_RECV_NS)); /* fromNs = recvNs */
    assert_int_equal(get64(view.data + 32), 0);
    assert_int_equal(get64(view.pointers) >> 35, 2);
    assert_memory_equal(pointer_target(view.pointers), "{\"", 2);
    assert_int_equal(ssmd_conn_result(all->conn)->event_count, 0);
    done(all);
    free(of);
}

static void a_frame_of_the_whole_limit_passes_in_small_reads(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    char *frame = malloc(8193);
    size_t n = (size_t)sprintf(frame, "{\"type\":\"ticker\",\"msg\":{\"market_ticker\":\"K\",\"x\":\"");
    memset(frame + n, 'x', 8192 - n - 3);
    sprintf(frame + 8192 - 3, "\"}}");
    put_text(of, frame);
    put_delta(of, 1, 1);
    bench *all = run(of, 100, SIZE_MAX);
    record_view view;
    assert_true(record_check(all->records, 8 + 8 * (uint64_t)get32(all->records + 4), &view));
    assert_int_equal(view.kind, SSMD_KIND_TICKER);
    assert_int_equal(view.frame_bytes, 8192);
    assert_memory_equal(view.frame, frame, 8192);
    assert_int_equal(ssmd_conn_result(all->conn)->frames, 2);
    done(all);
    free(frame);
    free(of);
}

/* ---- the contract of feed ----------------------------------------------------------------- */

static void feeding_while_something_is_left_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    stream *of = everything(20);
    bench *all = started();
    assert_int_equal(ssmd_conn_feed(all->conn, OPTIONS.recv_bytes + 1), SSMD_INVALID);
    memcpy(ssmd_conn_buffer(all->conn), of->bytes, 16384);
    int status = SSMD_FEED_OK;
    size_t at = 0;
    while (status == SSMD_FEED_OK) {
        memcpy(ssmd_conn_buffer(all->conn), of->bytes + at, 16384);
        status = ssmd_conn_feed(all->conn, 16384);
        at += 16384;
    }
    assert_int_equal(status, SSMD_FEED_FULL);
    uint64_t next = ssmd_writer_next_number(all->writer);
    assert_int_equal(ssmd_conn_feed(all->conn, 1), SSMD_INVALID);
    assert_int_equal(ssmd_conn_feed(all->conn, 0), SSMD_FEED_FULL);
    assert_int_equal(ssmd_writer_next_number(all->writer), next);
    done(all);
    free(of);
}

static void feeding_nothing_takes_no_new_stamp(void **state)
{
    (void)state;
    stream *of = calloc(1, sizeof *of);
    put_delta(of, 1, 1);
    bench *all = started();
    assert_int_equal(ssmd_conn_feed(all->conn, 0), SSMD_FEED_OK);
    assert_int_equal(ssmd_conn_result(all->conn)->last_recv_ns, 0);
    feed(all, of->bytes, of->n, SIZE_MAX);
    int64_t stamp = ssmd_conn_result(all->conn)->last_recv_ns;
    assert_true(stamp > 1600000000000000000);
    ssmd_conn_feed(all->conn, 0);
    assert_int_equal(ssmd_conn_result(all->conn)->last_recv_ns, stamp);
    done(all);
    free(of);
}

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    bench *all = started();
    ssmd_conn *conn;
    uint64_t limit = ssmd_ring_limit(all->ring);
    ssmd_conn_options options = OPTIONS;
    options.max_frame_bytes = limit - SSMD_UNPARSED_OVERHEAD_BYTES;
    assert_int_equal(ssmd_conn_open(all->writer, &options, &conn), SSMD_OK);
    ssmd_conn_close(conn);
    options.max_frame_bytes++;
    assert_int_equal(ssmd_conn_open(all->writer, &options, &conn), SSMD_INVALID);
    assert_null(conn);
    options.max_frame_bytes = UINT64_MAX;
    assert_int_equal(ssmd_conn_open(all->writer, &options, &conn), SSMD_INVALID);
    options = OPTIONS;
    options.recv_bytes = 4095;
    assert_int_equal(ssmd_conn_open(all->writer, &options, &conn), SSMD_INVALID);
    options.recv_bytes = (16u << 20) + 1;
    assert_int_equal(ssmd_conn_open(all->writer, &options, &conn), SSMD_INVALID);
    done(all);
}

/* ---- push --------------------------------------------------------------------------------- */

static void a_pushed_record_gets_the_next_number_and_nothing_else_changes(void **state)
{
    (void)state;
    bench *all = started();
    uint8_t gap[256] = {0};
    ssmd_record_header header = {.number = 77, .recv_ns = 5, .connection = 3};
    ssmd_gap of = {.cause = SSMD_GAP_SEQUENCE, .from_seq = 1};
    size_t n = ssmd_gap_write(gap, &header, &of);
    uint64_t number;
    assert_int_equal(ssmd_writer_push(all->writer, gap, n, &number), SSMD_OK);
    assert_int_equal(number, 101);
    const uint8_t *at;
    uint64_t bytes;
    assert_int_equal(ssmd_ring_peek(all->drain, &at, &bytes), SSMD_OK);
    assert_int_equal(bytes, n);
    assert_int_equal(get64(at + SSMD_RECORD_NUMBER), 101);
    assert_memory_equal(at + 24, gap + 24, n - 24);
    done(all);
}

static void what_is_not_one_record_is_not_pushed(void **state)
{
    (void)state;
    bench *all = started();
    uint8_t gap[256] = {0};
    ssmd_record_header header = {0};
    ssmd_gap of = {.cause = SSMD_GAP_SEQUENCE};
    size_t n = ssmd_gap_write(gap, &header, &of);
    uint64_t number = 9;
    assert_int_equal(ssmd_writer_push(all->writer, gap, n - 8, &number), SSMD_INVALID);
    assert_int_equal(ssmd_writer_push(all->writer, gap, n + 8, &number), SSMD_INVALID);
    assert_int_equal(ssmd_writer_push(all->writer, gap, 0, &number), SSMD_INVALID);
    gap[SSMD_RECORD_KIND] = SSMD_KIND_CHECKPOINT;
    assert_int_equal(ssmd_writer_push(all->writer, gap, n, &number), SSMD_INVALID);
    gap[SSMD_RECORD_KIND] = SSMD_KIND_COUNT;
    assert_int_equal(ssmd_writer_push(all->writer, gap, n, &number), SSMD_INVALID);
    assert_int_equal(number, 0);
    assert_int_equal(ssmd_writer_next_number(all->writer), 101);
    done(all);
}

static void a_push_into_a_full_ring_is_told_and_takes_no_number(void **state)
{
    (void)state;
    bench *all = started();
    uint8_t gap[256] = {0};
    ssmd_record_header header = {0};
    ssmd_gap of = {.cause = SSMD_GAP_SEQUENCE};
    size_t n = ssmd_gap_write(gap, &header, &of);
    uint64_t number, pushed = 0;
    while (ssmd_writer_push(all->writer, gap, n, &number) == SSMD_OK)
        pushed++;
    assert_int_equal(pushed, RING_BYTES / n);
    assert_int_equal(ssmd_writer_push(all->writer, gap, n, &number), SSMD_FULL);
    drain(all, 1);
    assert_int_equal(ssmd_writer_push(all->writer, gap, n, &number), SSMD_OK);
    assert_int_equal(number, 101 + pushed);
    done(all);
}

/* ---- receive ------------------------------------------------------------------------------- */

/* A connection with a socket pair: what is written into `far` can be received from `near`. */
typedef struct wired {
    bench all;
    int near, far;
} wired;

static wired *open_wired(void)
{
    wired *made = calloc(1, sizeof *made);
    int ends[2];
    assert_non_null(made);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    open_bench(&made->all, &OPTIONS);
    made->near = ends[0];
    made->far = ends[1];
    return made;
}

static void close_wired(wired *of)
{
    close(of->near);
    if (of->far >= 0)
        close(of->far);
    close_bench(&of->all);
    free(of);
}

static void put(const wired *into, const char *bytes, size_t n)
{
    assert_int_equal(write(into->far, bytes, n), n);
}

static void what_came_is_in_the_ring_and_there_is_nothing_to_see(void **state)
{
    (void)state;
    static const char FRAME[] = "\x81\x02{}";
    wired *of = open_wired();
    put(of, FRAME, 4);
    put(of, FRAME, 4);
    assert_int_equal(ssmd_conn_receive(of->all.conn, of->near), 0);
    assert_int_equal(ssmd_conn_result(of->all.conn)->received, 8);
    assert_int_equal(ssmd_conn_result(of->all.conn)->frames, 2);
    close_wired(of);
}

static void an_event_and_a_status_are_something_to_see(void **state)
{
    (void)state;
    wired *of = open_wired();
    put(of, "\x89\x01p", 3);
    assert_int_equal(ssmd_conn_receive(of->all.conn, of->near), 1);
    assert_int_equal(ssmd_conn_result(of->all.conn)->event_count, 1);
    put(of, "\xff\x00", 2);
    assert_int_equal(ssmd_conn_receive(of->all.conn, of->near), 1);
    assert_int_equal(ssmd_conn_result(of->all.conn)->status, SSMD_FEED_PROTOCOL);
    close_wired(of);
}

static void receiving_never_waits_and_says_what_came_of_it(void **state)
{
    (void)state;
    wired *of = open_wired();
    assert_int_equal(ssmd_conn_receive(of->all.conn, of->near), 1);
    assert_int_equal(ssmd_conn_result(of->all.conn)->received, -EAGAIN);
    close(of->far);
    of->far = -1;
    assert_int_equal(ssmd_conn_receive(of->all.conn, of->near), 1);
    assert_int_equal(ssmd_conn_result(of->all.conn)->received, 0);
    assert_int_equal(ssmd_conn_result(of->all.conn)->event_count, 0);
    assert_int_equal(ssmd_conn_receive(of->all.conn, -1), 1);
    assert_int_equal(ssmd_conn_result(of->all.conn)->received, -EBADF);
    close_wired(of);
}

static void nothing_is_received_while_something_is_left(void **state)
{
    (void)state;
    wired *of = open_wired();
    static char frame[4 + 4000] = "\x81\x7e\x0f\xa0";
    memset(frame + 4, 'x', 4000);
    int seen = 0, frames = 0;
    while (seen == 0) { /* until the ring is full */
        put(of, frame, sizeof frame);
        seen = ssmd_conn_receive(of->all.conn, of->near);
        frames++;
    }
    assert_int_equal(ssmd_conn_result(of->all.conn)->status, SSMD_FEED_FULL);
    put(of, frame, sizeof frame);
    assert_int_equal(ssmd_conn_receive(of->all.conn, of->near), SSMD_INVALID);
    drain(&of->all, RING_BYTES);
    assert_int_equal(ssmd_conn_feed(of->all.conn, 0), SSMD_FEED_OK);
    assert_int_equal(ssmd_conn_receive(of->all.conn, of->near), 0);
    assert_int_equal(ssmd_conn_result(of->all.conn)->frames, frames + 1);
    close_wired(of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_record_is_whole_and_numbers_count_up_by_one),
        cmocka_unit_test(any_chunking_gives_the_same_records_and_events),
        cmocka_unit_test(a_ring_that_is_full_at_every_record_loses_and_doubles_nothing),
        cmocka_unit_test(events_come_in_the_order_of_the_wire),
        cmocka_unit_test(a_jump_leaves_a_gap_record_before_the_frame),
        cmocka_unit_test(more_events_than_fit_come_in_several_calls),
        cmocka_unit_test(large_replies_are_told_whole),
        cmocka_unit_test(each_name_is_told_once_and_at_most_256_of_them),
        cmocka_unit_test(long_names_are_cut_at_64_bytes_and_told_once),
        cmocka_unit_test(counters_say_what_was_written),
        cmocka_unit_test(markets_know_their_records),
        cmocka_unit_test(after_a_close_frame_nothing_counts),
        cmocka_unit_test(a_protocol_error_keeps_what_came_before),
        cmocka_unit_test(a_message_beyond_the_limit_leaves_a_gap_record),
        cmocka_unit_test(a_frame_of_the_whole_limit_passes_in_small_reads),
        cmocka_unit_test(feeding_while_something_is_left_is_refused_and_changes_nothing),
        cmocka_unit_test(feeding_nothing_takes_no_new_stamp),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(a_pushed_record_gets_the_next_number_and_nothing_else_changes),
        cmocka_unit_test(what_is_not_one_record_is_not_pushed),
        cmocka_unit_test(a_push_into_a_full_ring_is_told_and_takes_no_number),
        cmocka_unit_test(what_came_is_in_the_ring_and_there_is_nothing_to_see),
        cmocka_unit_test(an_event_and_a_status_are_something_to_see),
        cmocka_unit_test(receiving_never_waits_and_says_what_came_of_it),
        cmocka_unit_test(nothing_is_received_while_something_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
