/* fuzz_websocket.c - any bytes from a server: fed whole and fed in pieces they come to the same messages, the same end
 * and the same unread rest; nothing is read outside of what was received.
 *
 * The first two bytes choose the limit and how the pieces are cut. Each piece lies in an allocation of its size. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "websocket.h"

enum { MOST_BYTES = 4096 };

/* What came out: messages one behind the other (opcode, length, bytes), then how it ended. */
typedef struct outcome {
    uint8_t said[MOST_BYTES * 12 + 64];
    size_t said_bytes;
    int status;
    uint64_t length; /* of a message that is too large */
    size_t rest;
    ssmd_ws at_end;
} outcome;

static void say(outcome *to, const ssmd_ws_message *message)
{
    to->said[to->said_bytes++] = message->opcode;
    memcpy(to->said + to->said_bytes, &message->n, sizeof message->n);
    to->said_bytes += sizeof message->n;
    if (message->n > 0)
        memcpy(to->said + to->said_bytes, message->at, message->n);
    to->said_bytes += message->n;
    assert(to->said_bytes < sizeof to->said);
}

static void receive(outcome *to, const uint8_t *bytes, size_t n, uint64_t limit, uint32_t cuts, bool in_pieces)
{
    uint8_t *assembly = malloc(limit);
    ssmd_ws ws;
    size_t rest = 0, from = 0;
    uint8_t kept[SSMD_WS_REST_MAX_BYTES];
    memset(to, 0, sizeof *to);
    ssmd_ws_init(&ws, assembly, limit);
    do {
        cuts = cuts * 1664525u + 1013904223u;
        size_t piece = in_pieces ? 1 + (cuts >> 24) % (1u << (cuts >> 16 & 7)) : n;
        if (piece > n - from)
            piece = n - from;
        uint8_t *buffer =
            malloc(rest + piece + 1) + 1; /* one byte in: an odd address, and its end is the allocation's */
        if (rest > 0)
            memcpy(buffer, kept, rest);
        if (piece > 0)
            memcpy(buffer + rest, bytes + from, piece);
        const uint8_t *at = buffer, *end = buffer + rest + piece;
        ssmd_ws_message message = {0};
        while ((to->status = ssmd_ws_next(&ws, &at, end, &message)) == SSMD_OK) {
            assert(at <= end && (message.opcode >= SSMD_WS_CLOSE || message.n <= limit));
            say(to, &message);
        }
        rest = (size_t)(end - at);
        if (to->status == SSMD_EMPTY) {
            assert(rest < SSMD_WS_REST_MAX_BYTES);
            memcpy(kept, at, rest);
        }
        if (to->status == SSMD_TOO_LARGE) {
            assert(message.length > limit && message.n <= 256 && message.n <= limit);
            to->length = message.length;
        }
        from += piece;
        free(buffer - 1);
    } while (from < n && to->status == SSMD_EMPTY);
    to->rest = to->status == SSMD_EMPTY ? rest : 0;
    to->at_end = ws;
    free(assembly);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static outcome whole, cut;
    if (n < 2 || n > MOST_BYTES)
        return 0;
    uint64_t limit = 1u + data[0] * (uint64_t)data[0] / 8;
    receive(&whole, data + 2, n - 2, limit, 0, false);
    receive(&cut, data + 2, n - 2, limit, data[1] * 2654435761u, true);
    assert(whole.status == cut.status && whole.length == cut.length && whole.rest == cut.rest);
    assert(whole.said_bytes == cut.said_bytes && memcmp(whole.said, cut.said, whole.said_bytes) == 0);
    if (whole.status == SSMD_EMPTY)
        assert(whole.at_end.have == cut.at_end.have && whole.at_end.pending == cut.at_end.pending &&
               whole.at_end.opcode == cut.at_end.opcode);
    return 0;
}
