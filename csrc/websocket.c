/* websocket.c - headers, then messages. websocket.h draws the picture. */
#include "websocket.h"

#include <string.h>

enum { FIN = 0x80, RESERVED = 0x70, OPCODE = 0x0F, MASKED = 0x80, LENGTH = 0x7F, CONTROL = 0x08 };
enum { HEAD_BYTES = 256 }; /* of a message that is too large */

static uint64_t big_endian(const uint8_t *at, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value = value << 8 | at[i];
    return value;
}

int ssmd_ws_header_read(const uint8_t *at, size_t n, ssmd_ws_header *header)
{
    if (n < 2)
        return SSMD_EMPTY;
    uint8_t opcode = at[0] & OPCODE, length = at[1] & LENGTH;
    bool control = (opcode & CONTROL) != 0;
    if ((at[0] & RESERVED) != 0 || (at[1] & MASKED) != 0)
        return SSMD_PROTOCOL;
    if (opcode > SSMD_WS_PONG || (opcode > SSMD_WS_BINARY && !control))
        return SSMD_PROTOCOL;
    header->fin = (at[0] & FIN) != 0;
    header->opcode = opcode;
    if (control && !header->fin)
        return SSMD_PROTOCOL;
    unsigned more = length < 126 ? 0 : length == 126 ? 2 : 8;
    header->bytes = (uint8_t)(2 + more);
    if (n < header->bytes)
        return SSMD_EMPTY;
    header->length = more == 0 ? length : big_endian(at + 2, more);
    if (header->length >> 63 != 0 || (control && header->length > SSMD_WS_CONTROL_MAX_BYTES))
        return SSMD_PROTOCOL;
    return SSMD_OK;
}

void ssmd_ws_init(ssmd_ws *ws, uint8_t *assembly, uint64_t max_bytes)
{
    *ws = (ssmd_ws){.assembly = assembly, .max_bytes = max_bytes};
}

/* Moves bytes of the current frame into assembly; true when that completes a message. */
static bool gather(ssmd_ws *ws, const uint8_t **at, const uint8_t *end, ssmd_ws_message *message)
{
    size_t left = (size_t)(end - *at), n = ws->pending < left ? (size_t)ws->pending : left;
    if (n > 0) {
        memcpy(ws->assembly + ws->have, *at, n);
        *at += n;
        ws->have += n;
        ws->pending -= n;
    }
    if (ws->pending > 0 || !ws->fin)
        return false;
    *message = (ssmd_ws_message){.at = ws->assembly, .n = (size_t)ws->have, .opcode = ws->opcode};
    ws->have = 0;
    ws->opcode = 0;
    ws->fin = false;
    return true;
}

/* A message over the limit: what there is of its first bytes, put together in assembly. */
static int too_large(ssmd_ws *ws, const ssmd_ws_header *header, const uint8_t *payload, const uint8_t *end,
                     ssmd_ws_message *message)
{
    uint64_t room = HEAD_BYTES < ws->max_bytes ? HEAD_BYTES : ws->max_bytes;
    uint64_t have = ws->have < room ? ws->have : room;
    uint64_t more = room - have;
    if (more > (uint64_t)(end - payload))
        more = (uint64_t)(end - payload);
    if (more > header->length)
        more = header->length;
    if (more > 0)
        memcpy(ws->assembly + have, payload, (size_t)more);
    *message = (ssmd_ws_message){.at = ws->assembly,
                                 .n = (size_t)(have + more),
                                 .length = ws->have + header->length,
                                 .opcode = ws->opcode != 0 ? ws->opcode : header->opcode};
    return SSMD_TOO_LARGE;
}

/* The common case: a whole, unfragmented text frame of less than 64 KiB, outside of any message. */
static bool whole_text(const ssmd_ws *ws, const uint8_t **at, const uint8_t *end, ssmd_ws_message *message)
{
    const uint8_t *header = *at;
    size_t left = (size_t)(end - header);
    if (left < 4 || header[0] != (FIN | SSMD_WS_TEXT) || header[1] > 126 || ws->opcode != 0)
        return false;
    unsigned bytes = header[1] == 126 ? 4 : 2;
    size_t n = header[1] == 126 ? (size_t)header[2] << 8 | header[3] : header[1];
    if (left - bytes < n || n > ws->max_bytes)
        return false;
    message->at = header + bytes;
    message->n = n;
    message->opcode = SSMD_WS_TEXT;
    *at = header + bytes + n;
    return true;
}

int ssmd_ws_next(ssmd_ws *ws, const uint8_t **at, const uint8_t *end, ssmd_ws_message *message)
{
    if (whole_text(ws, at, end, message))
        return SSMD_OK;
    for (;;) {
        if (ws->pending > 0) { /* in the middle of a data frame */
            if (gather(ws, at, end, message))
                return SSMD_OK;
            if (ws->pending > 0)
                return SSMD_EMPTY;
        }
        ssmd_ws_header header;
        size_t left = (size_t)(end - *at);
        int status = ssmd_ws_header_read(*at, left, &header);
        if (left >= 2 && status != SSMD_PROTOCOL) { /* judged as soon as the opcode is there */
            bool continues = (**at & OPCODE) == SSMD_WS_CONTINUATION, control = (**at & CONTROL) != 0;
            if (!control && continues != (ws->opcode != 0))
                return SSMD_PROTOCOL;
        }
        if (status != SSMD_OK)
            return status;
        const uint8_t *payload = *at + header.bytes;
        if (header.opcode >= SSMD_WS_CLOSE) {
            if (left - header.bytes < header.length)
                return SSMD_EMPTY;
        } else if (header.length > ws->max_bytes - ws->have) {
            return too_large(ws, &header, payload, end, message);
        }
        if (header.opcode >= SSMD_WS_CLOSE ||
            (header.fin && ws->opcode == 0 && left - header.bytes >= header.length)) { /* whole, where it stands */
            *message = (ssmd_ws_message){.at = payload, .n = (size_t)header.length, .opcode = header.opcode};
            *at = payload + header.length;
            return SSMD_OK;
        }
        if (ws->opcode == 0)
            ws->opcode = header.opcode;
        ws->fin = header.fin;
        ws->pending = header.length;
        *at = payload;
        if (gather(ws, at, end, message))
            return SSMD_OK;
    }
}

const char *ssmd_ws_fault_text(const ssmd_ws *ws, const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at);
    if (left < 2)
        return "";
    uint8_t opcode = at[0] & OPCODE, length = at[1] & LENGTH;
    bool control = (opcode & CONTROL) != 0;
    if ((at[0] & RESERVED) != 0)
        return "reserved bits are set";
    if ((at[1] & MASKED) != 0)
        return "a masked server frame";
    if (opcode > SSMD_WS_PONG || (opcode > SSMD_WS_BINARY && !control))
        return "an opcode that there is not";
    if (control && (at[0] & FIN) == 0)
        return "a fragmented control frame";
    if (opcode == SSMD_WS_CONTINUATION && ws->opcode == 0)
        return "a continuation outside of a message";
    if (!control && opcode != SSMD_WS_CONTINUATION && ws->opcode != 0)
        return "a new message inside of another";
    if (length == 127 && left > 2 && (at[2] & 0x80) != 0)
        return "a length with its top bit set";
    return control && length > SSMD_WS_CONTROL_MAX_BYTES ? "a control frame of more than 125 bytes" : "";
}
