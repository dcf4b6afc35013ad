/* test_websocket.c - the splitter, fed whole, in two pieces cut at every byte, byte by byte, with bytes behind, and
 * with input that ends at a guard page. Expected messages are written by hand from RFC 6455, section 5. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../websocket.h"
#include "guard.h"

enum { MAX_BYTES = 70000, TEXT_BYTES = 200 };

typedef struct expected {
    uint8_t opcode;
    const char *text;
    size_t n;
} expected;

typedef struct sample {
    const char *name;
    const char *wire;
    size_t wire_bytes;
    int status; /* after the messages: SSMD_EMPTY, SSMD_PROTOCOL, SSMD_TOO_LARGE */
    expected messages[4];
} sample;

#define WIRE(bytes) bytes, sizeof bytes - 1
#define SAYS(opcode, text)                                                                                             \
    {                                                                                                                  \
        opcode, text, sizeof text - 1                                                                                  \
    }

static const sample SAMPLES[] = {
    {"nothing", WIRE(""), SSMD_EMPTY, {{0}}},
    {"a text", WIRE("\x81\x05hello"), SSMD_EMPTY, {SAYS(1, "hello")}},
    {"an empty text", WIRE("\x81\x00"), SSMD_EMPTY, {SAYS(1, "")}},
    {"a binary", WIRE("\x82\x02\x00\xff"), SSMD_EMPTY, {SAYS(2, "\x00\xff")}},
    {"two texts",
     WIRE("\x81\x01"
          "a\x81\x02"
          "bc"),
     SSMD_EMPTY,
     {SAYS(1, "a"), SAYS(1, "bc")}},
    {"a ping", WIRE("\x89\x09heartbeat"), SSMD_EMPTY, {SAYS(9, "heartbeat")}},
    {"a pong without payload", WIRE("\x8a\x00"), SSMD_EMPTY, {SAYS(10, "")}},
    {"a close with code",
     WIRE("\x88\x05\x03\xe8"
          "bye"),
     SSMD_EMPTY,
     {SAYS(8, "\x03\xe8"
              "bye")}},
    {"a close with one byte, which the session may judge", WIRE("\x88\x01x"), SSMD_EMPTY, {SAYS(8, "x")}},
    {"a length in the long form", WIRE("\x81\x7e\x00\x02hi"), SSMD_EMPTY, {SAYS(1, "hi")}},
    {"a length in the longest form", WIRE("\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x02hi"), SSMD_EMPTY, {SAYS(1, "hi")}},
    {"a control frame with a length in the long form", WIRE("\x89\x7e\x00\x01p"), SSMD_EMPTY, {SAYS(9, "p")}},
    {"two fragments", WIRE("\x01\x03hel\x80\x02lo"), SSMD_EMPTY, {SAYS(1, "hello")}},
    {"three fragments, the middle one empty", WIRE("\x01\x03hel\x00\x00\x80\x02lo"), SSMD_EMPTY, {SAYS(1, "hello")}},
    {"fragments that are all empty", WIRE("\x02\x00\x80\x00"), SSMD_EMPTY, {SAYS(2, "")}},
    {"a ping between fragments", WIRE("\x01\x03hel\x89\x01?\x80\x02lo"), SSMD_EMPTY, {SAYS(9, "?"), SAYS(1, "hello")}},
    {"a text behind a fragmented one",
     WIRE("\x01\x01"
          "a\x80\x01"
          "b\x81\x01"
          "c"),
     SSMD_EMPTY,
     {SAYS(1, "ab"), SAYS(1, "c")}},
    {"half a header", WIRE("\x81"), SSMD_EMPTY, {{0}}},
    {"half a length", WIRE("\x81\x7e\x01"), SSMD_EMPTY, {{0}}},
    {"half a payload", WIRE("\x81\x05he"), SSMD_EMPTY, {{0}}},
    {"half a ping", WIRE("\x89\x05he"), SSMD_EMPTY, {{0}}},
    {"a masked frame", WIRE("\x81\x85\x01\x02\x03\x04hello"), SSMD_PROTOCOL, {{0}}},
    {"RSV1", WIRE("\xc1\x00"), SSMD_PROTOCOL, {{0}}},
    {"RSV2", WIRE("\xa1\x00"), SSMD_PROTOCOL, {{0}}},
    {"RSV3", WIRE("\x91\x00"), SSMD_PROTOCOL, {{0}}},
    {"opcode 3", WIRE("\x83\x00"), SSMD_PROTOCOL, {{0}}},
    {"opcode 7", WIRE("\x87\x00"), SSMD_PROTOCOL, {{0}}},
    {"opcode 11", WIRE("\x8b\x00"), SSMD_PROTOCOL, {{0}}},
    {"opcode 15", WIRE("\x8f\x00"), SSMD_PROTOCOL, {{0}}},
    {"a fragmented ping", WIRE("\x09\x00"), SSMD_PROTOCOL, {{0}}},
    {"a ping of 126 bytes", WIRE("\x89\x7e\x00\x7e"), SSMD_PROTOCOL, {{0}}},
    {"a continuation of nothing", WIRE("\x80\x00"), SSMD_PROTOCOL, {{0}}},
    {"a continuation of nothing, judged before its length is there", WIRE("\x80\x7e"), SSMD_PROTOCOL, {{0}}},
    {"a text inside a message",
     WIRE("\x01\x01"
          "a\x81\x01"
          "b"),
     SSMD_PROTOCOL,
     {{0}}},
    {"a text, then a masked one",
     WIRE("\x81\x01"
          "a\x81\x80"),
     SSMD_PROTOCOL,
     {SAYS(1, "a")}},
    {"a length with its top bit set", WIRE("\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00"), SSMD_PROTOCOL, {{0}}},
    {"a length beyond the limit", WIRE("\x81\x7f\x00\x00\x00\x00\x00\x01\x11\x71"), SSMD_TOO_LARGE, {{0}}},
    {"a text, then one beyond the limit",
     WIRE("\x81\x01"
          "a\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"),
     SSMD_TOO_LARGE,
     {SAYS(1, "a")}},
};
enum { SAMPLE_COUNT = sizeof SAMPLES / sizeof *SAMPLES };

/* Checks messages as they come out. */
typedef struct listener {
    const sample *of;
    size_t heard;
} listener;

static size_t message_count(const sample *of)
{
    size_t n = 0;
    while (n < 4 && of->messages[n].opcode != 0)
        n++;
    return n;
}

static void hear(listener *to, const ssmd_ws_message *message)
{
    assert_true(to->heard < message_count(to->of));
    const expected *says = &to->of->messages[to->heard++];
    assert_int_equal(message->opcode, says->opcode);
    assert_int_equal(message->n, says->n);
    assert_memory_equal(message->at, says->text, says->n);
}

/* Feeds pieces as a connection does: what one call leaves over stands before the next piece. Each input ends at the
 * guard. */
static int feed_pieces(const sample *of, const size_t *cuts, size_t cut_count, ssmd_ws *ws, listener *to)
{
    guarded guard = guard_open(4096);
    uint8_t rest[512];
    size_t rest_bytes = 0, from = 0;
    int status = SSMD_EMPTY;
    for (size_t i = 0; i <= cut_count && status == SSMD_EMPTY; i++) {
        size_t until = i < cut_count ? cuts[i] : of->wire_bytes, n = until - from;
        memcpy(rest + rest_bytes, of->wire + from, n);
        const uint8_t *at = guard_copy(&guard, rest, rest_bytes + n);
        ssmd_ws_message message;
        while ((status = ssmd_ws_next(ws, &at, guard.end, &message)) == SSMD_OK)
            hear(to, &message);
        rest_bytes = (size_t)(guard.end - at);
        assert_true(status != SSMD_EMPTY || rest_bytes < SSMD_WS_REST_MAX_BYTES);
        memcpy(rest, at, rest_bytes);
        from = until;
    }
    guard_close(&guard);
    return status;
}

static void run(const sample *of, const size_t *cuts, size_t cut_count)
{
    uint8_t *assembly = malloc(MAX_BYTES);
    listener to = {.of = of};
    ssmd_ws ws;
    ssmd_ws_init(&ws, assembly, MAX_BYTES);
    int status = feed_pieces(of, cuts, cut_count, &ws, &to);
    if (status != of->status || to.heard != message_count(of))
        print_error("sample: %s\n", of->name);
    assert_int_equal(status, of->status);
    assert_int_equal(to.heard, message_count(of));
    free(assembly);
}

static void samples_come_out_right_fed_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_COUNT; i++)
        run(&SAMPLES[i], NULL, 0);
}

static void samples_come_out_right_cut_at_any_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_COUNT; i++)
        for (size_t cut = 0; cut <= SAMPLES[i].wire_bytes; cut++)
            run(&SAMPLES[i], &cut, 1);
}

static void samples_come_out_right_byte_by_byte(void **state)
{
    (void)state;
    size_t cuts[TEXT_BYTES];
    for (size_t i = 0; i < TEXT_BYTES; i++)
        cuts[i] = i + 1;
    for (size_t i = 0; i < SAMPLE_COUNT; i++)
        if (SAMPLES[i].wire_bytes > 0)
            run(&SAMPLES[i], cuts, SAMPLES[i].wire_bytes - 1);
}

/* What follows a whole frame is not touched: the same samples with a header's worth of garbage behind their messages.
 */
static void bytes_behind_a_message_are_left_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        const sample *of = &SAMPLES[i];
        if (of->status != SSMD_EMPTY || message_count(of) != 1)
            continue;
        uint8_t wire[TEXT_BYTES];
        memcpy(wire, of->wire, of->wire_bytes);
        wire[of->wire_bytes] = 0xff;
        uint8_t assembly[TEXT_BYTES];
        ssmd_ws ws;
        ssmd_ws_init(&ws, assembly, sizeof assembly);
        const uint8_t *at = wire;
        listener to = {.of = of};
        ssmd_ws_message message;
        assert_int_equal(ssmd_ws_next(&ws, &at, wire + of->wire_bytes + 1, &message), SSMD_OK);
        hear(&to, &message);
        assert_ptr_equal(at, wire + of->wire_bytes);
    }
}

/* A message that lies whole in the buffer is not copied. */
static void whole_messages_are_spans_of_the_buffer(void **state)
{
    (void)state;
    uint8_t assembly[16], wire[] = "\x81\x05hello";
    const uint8_t *at = wire;
    ssmd_ws ws;
    ssmd_ws_message message;
    ssmd_ws_init(&ws, assembly, sizeof assembly);
    assert_int_equal(ssmd_ws_next(&ws, &at, wire + 7, &message), SSMD_OK);
    assert_ptr_equal(message.at, wire + 2);
}

static uint8_t *frame_of(size_t n, size_t *bytes)
{
    uint8_t *wire = malloc(n + 10);
    wire[0] = 0x81;
    wire[1] = 127;
    for (unsigned i = 0; i < 8; i++)
        wire[2 + i] = (uint8_t)((uint64_t)n >> (56 - 8 * i));
    for (size_t i = 0; i < n; i++)
        wire[10 + i] = (uint8_t)('a' + i % 26);
    *bytes = n + 10;
    return wire;
}

static void a_message_of_exactly_the_limit_passes_and_one_more_does_not(void **state)
{
    (void)state;
    uint8_t *assembly = malloc(MAX_BYTES);
    for (size_t over = 0; over <= 1; over++) {
        size_t bytes;
        uint8_t *wire = frame_of(MAX_BYTES + over, &bytes);
        const uint8_t *at = wire;
        ssmd_ws ws;
        ssmd_ws_message message;
        ssmd_ws_init(&ws, assembly, MAX_BYTES);
        assert_int_equal(ssmd_ws_next(&ws, &at, wire + bytes, &message), over == 0 ? SSMD_OK : SSMD_TOO_LARGE);
        assert_int_equal(over == 0 ? message.n : message.length, MAX_BYTES + over);
        free(wire);
    }
    free(assembly);
}

/* lengthBytes and head of a Gap record: fragments before, then what is there of the frame that passes the limit. */
static void a_limit_passed_in_fragments_tells_length_and_first_bytes(void **state)
{
    (void)state;
    uint8_t assembly[8];
    const uint8_t wire[] = "\x01\x05hello\x80\x04wor";
    const uint8_t *at = wire;
    ssmd_ws ws;
    ssmd_ws_message message;
    ssmd_ws_init(&ws, assembly, sizeof assembly);
    assert_int_equal(ssmd_ws_next(&ws, &at, wire + sizeof wire - 1, &message), SSMD_TOO_LARGE);
    assert_int_equal(message.length, 9);
    assert_int_equal(message.n, 8);
    assert_memory_equal(message.at, "hellowor", 8);
}

static void the_first_bytes_of_a_message_over_the_limit_are_at_most_256(void **state)
{
    (void)state;
    uint8_t assembly[400];
    size_t bytes;
    uint8_t *wire = frame_of(1000, &bytes);
    for (size_t there = 10; there <= bytes; there += 90) {
        const uint8_t *at = wire;
        ssmd_ws ws;
        ssmd_ws_message message;
        ssmd_ws_init(&ws, assembly, sizeof assembly);
        assert_int_equal(ssmd_ws_next(&ws, &at, wire + there, &message), SSMD_TOO_LARGE);
        assert_int_equal(message.length, 1000);
        assert_int_equal(message.n, there - 10 < 256 ? there - 10 : 256);
        assert_memory_equal(message.at, wire + 10, message.n);
    }
    free(wire);
}

/* 16-bit lengths around their ends, in chunks of an odd size. */
static void lengths_of_two_bytes_are_read_most_significant_first(void **state)
{
    (void)state;
    static const size_t LENGTHS[] = {125, 126, 127, 255, 256, 257, 65535};
    uint8_t *assembly = malloc(MAX_BYTES);
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        size_t n = LENGTHS[i];
        uint8_t *wire = malloc(n + 4);
        wire[0] = 0x82;
        wire[1] = 126;
        wire[2] = (uint8_t)(n >> 8);
        wire[3] = (uint8_t)n;
        memset(wire + 4, 'x', n);
        for (size_t chunk = 4; chunk < n + 4; chunk += 997) {
            const uint8_t *at = wire;
            ssmd_ws ws;
            ssmd_ws_message message;
            ssmd_ws_init(&ws, assembly, MAX_BYTES);
            assert_int_equal(ssmd_ws_next(&ws, &at, wire + chunk, &message), SSMD_EMPTY);
            assert_ptr_equal(at, wire + chunk);
            assert_int_equal(ssmd_ws_next(&ws, &at, wire + n + 4, &message), SSMD_OK);
            assert_int_equal(message.n, n);
        }
        free(wire);
    }
    free(assembly);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_come_out_right_fed_whole),
        cmocka_unit_test(samples_come_out_right_cut_at_any_byte),
        cmocka_unit_test(samples_come_out_right_byte_by_byte),
        cmocka_unit_test(bytes_behind_a_message_are_left_alone),
        cmocka_unit_test(whole_messages_are_spans_of_the_buffer),
        cmocka_unit_test(a_message_of_exactly_the_limit_passes_and_one_more_does_not),
        cmocka_unit_test(a_limit_passed_in_fragments_tells_length_and_first_bytes),
        cmocka_unit_test(the_first_bytes_of_a_message_over_the_limit_are_at_most_256),
        cmocka_unit_test(lengths_of_two_bytes_are_read_most_significant_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
