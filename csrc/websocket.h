/* websocket.h - splits what a WebSocket server sends into messages (RFC 6455, the client's receiving half).
 *
 *       0                   1                   2                   3
 *       0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *      +-+-+-+-+-------+-+-------------+-------------------------------+
 *      |F|R|R|R| opcode|M| length (7)  |   16 or 64 bits more if the   |
 *      |I|S|S|S|  (4)  |A|             |   length is 126 or 127, most  |
 *      |N|V|V|V|       |S|             |   significant byte first      |
 *      | |1|2|3|       |K|             |                               |
 *      +-+-+-+-+-------+-+-------------+-------------------------------+
 *
 * No socket, no clock, no allocation: bytes come in, spans come out. A message that lies whole in the caller's buffer
 * is handed out where it stands; one that comes in pieces (fragments, or a frame cut by the end of the buffer) is
 * put together in `assembly`, memory of the caller's of max_bytes. So at most 139 bytes (a header, or a whole control
 * frame) are ever left over at the end of a buffer, and the cost of a large frame is linear however finely it is cut.
 *
 * Not here: the handshake, sending, compression (never negotiated), and UTF-8: a text that is not UTF-8 is kept, and
 * the decoder says so (docs/records.md, "WebSocket").
 */
#ifndef SSMD_WEBSOCKET_H
#define SSMD_WEBSOCKET_H

#include "ssmd.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SSMD_WS_CONTINUATION = 0,
    SSMD_WS_TEXT = 1,
    SSMD_WS_BINARY = 2,
    SSMD_WS_CLOSE = 8,
    SSMD_WS_PING = 9,
    SSMD_WS_PONG = 10
};

enum { SSMD_WS_HEADER_MAX_BYTES = 10, SSMD_WS_CONTROL_MAX_BYTES = 125 };
/* The most that ssmd_ws_next leaves unread: all but the last byte of a control frame, its length in the long form. */
enum { SSMD_WS_REST_MAX_BYTES = SSMD_WS_HEADER_MAX_BYTES + SSMD_WS_CONTROL_MAX_BYTES };

typedef struct ssmd_ws_header {
    uint64_t length; /* of the payload */
    uint8_t opcode;
    bool fin;
    uint8_t bytes; /* of the header itself */
} ssmd_ws_header;

/* Reads the header at `at`. SSMD_OK; SSMD_EMPTY (more bytes are needed); SSMD_PROTOCOL (no server may send this). */
int ssmd_ws_header_read(const uint8_t *at, size_t n, ssmd_ws_header *header);

typedef struct ssmd_ws_message {
    const uint8_t *at; /* valid until the next call, or until the buffer changes */
    size_t n;
    uint64_t length; /* SSMD_TOO_LARGE: what was announced, over all fragments */
    uint8_t opcode;
} ssmd_ws_message;

typedef struct ssmd_ws {
    uint8_t *assembly; /* of the caller's, max_bytes long */
    uint64_t max_bytes;
    uint64_t have;    /* bytes in assembly */
    uint64_t pending; /* bytes of the current data frame that are still to come */
    uint8_t opcode;   /* of the message being put together, 0 = none */
    bool fin;         /* the frame being received is its last */
} ssmd_ws;

void ssmd_ws_init(ssmd_ws *ws, uint8_t *assembly, uint64_t max_bytes);

/* The next message in [*at, end); *at moves behind what was read.
 * SSMD_OK: message holds it. SSMD_EMPTY: no more; what is left at *at (a few bytes, or none) has to stand before the
 * bytes that come next. SSMD_PROTOCOL. SSMD_TOO_LARGE: message has the announced length, and the first bytes that are
 * there. After the last two the stream cannot be read on. */
int ssmd_ws_next(ssmd_ws *ws, const uint8_t **at, const uint8_t *end, ssmd_ws_message *message);

/* After SSMD_PROTOCOL: what is wrong with the frame at `at`, which is still where it was, in words; "" = nothing. */
const char *ssmd_ws_fault_text(const ssmd_ws *ws, const uint8_t *at, const uint8_t *end);

#ifdef __cplusplus
}
#endif
#endif
