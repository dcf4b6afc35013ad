/* decode_c.c - what one frame costs in C: decoded, decoded and written, and fed through a connection into a ring.
 *
 *   gcc -std=gnu11 -O3 -Icsrc benchmarks/decode_c.c csrc/[a-z]*.c -pthread -o /tmp/decode_c && /tmp/decode_c
 *
 * Generated frames in the exchange's own shape (new format, sending_ts_ms): 70 % book deltas, 22 % tickers, 8 % trades
 * over 2000 markets. Prints the median of 15 rounds, in ns a frame. One thread, everything in the cache that fits
 * there: the price of decoding, not of a socket.
 */
#include "kalshi.h"
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FRAMES = 4000, ROUNDS = 15, MARKETS = 2000 };

static uint64_t seed = 88172645463325252u;

static unsigned draw(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed >> 33) % below;
}

static const char *const SERIES[] = {"KXBTC", "KXHIGHNY", "KXMLBGAME", "KXTTELITEMATCH", "KXNFLFIRSTTD"};

static int write_market(char *to, unsigned market)
{
    return sprintf(to, "%s-26SEP%02u%02u-%c%05u", SERIES[market % 5], market % 28 + 1, market % 24, "TB"[market & 1],
                   market * 37 % 99999);
}

static int write_uuid(char *to, unsigned market)
{
    return sprintf(to, "%08x-fc6e-4836-8ac7-%012x", market * 2654435761u, market * 40503u);
}

static int write_frame(char *to, unsigned i)
{
    static unsigned delta_seq, trade_seq;
    unsigned market = draw(MARKETS), which = draw(100), ms = 342 + i;
    char ticker[64], uuid[64];
    write_market(ticker, market);
    write_uuid(uuid, market);
    if (which < 70)
        return sprintf(
            to,
            "{\"type\":\"orderbook_delta\",\"sid\":1,\"seq\":%u,\"msg\":{\"market_ticker\":\"%s\",\"market_id\":"
            "\"%s\",\"price_dollars\":\"0.%02u00\",\"delta_fp\":\"%s%u.%02u\",\"side\":\"%s\",\"ts\":"
            "\"2026-09-25T19:13:44.%06uZ\",\"ts_ms\":17903636%05u},\"sending_ts_ms\":17903636%05u}\n",
            ++delta_seq, ticker, uuid, draw(99) + 1, draw(2) ? "-" : "", draw(2000), draw(100), draw(2) ? "yes" : "no",
            draw(1000000), ms, ms + 3);
    if (which < 92)
        return sprintf(
            to,
            "{\"type\":\"ticker\",\"sid\":3,\"msg\":{\"market_id\":\"%s\",\"market_ticker\":\"%s\","
            "\"price_dollars\":\"0.%02u00\",\"yes_bid_dollars\":\"0.%02u00\",\"yes_ask_dollars\":\"0.%02u00\","
            "\"volume_fp\":\"%u.%02u\",\"open_interest_fp\":\"%u.%02u\",\"dollar_volume\":%u,"
            "\"dollar_open_interest\":%u,\"yes_bid_size_fp\":\"%u.00\",\"yes_ask_size_fp\":\"%u.00\","
            "\"last_trade_size_fp\":\"%u.%02u\",\"ts\":1790363592,\"ts_ms\":17903635%05u,\"time\":"
            "\"2026-09-25T19:13:12.%06uZ\"},\"sending_ts_ms\":17903635%05u}\n",
            uuid, ticker, draw(99), draw(99), draw(99), draw(100000), draw(100), draw(90000), draw(100), draw(50000),
            draw(40000), draw(5000), draw(5000), draw(300), draw(100), ms, draw(1000000), ms + 3);
    return sprintf(
        to,
        "{\"type\":\"trade\",\"sid\":2,\"seq\":%u,\"msg\":{\"trade_id\":\"%08x-f459-a1b0-00f7-ff8e033dd61d\","
        "\"market_ticker\":\"%s\",\"yes_price_dollars\":\"0.%04u\",\"no_price_dollars\":\"0.0160\","
        "\"count_fp\":\"%u.%02u\",\"taker_side\":\"yes\",\"taker_outcome_side\":\"yes\",\"taker_book_side\":"
        "\"bid\",\"is_block_trade\":false,\"ts\":1790363592,\"ts_ms\":17903635%05u},\"sending_ts_ms\":"
        "17903635%05u}\n",
        ++trade_seq, draw(1u << 30), ticker, draw(9999) + 1, draw(500), draw(100), ms, ms + 3);
}

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, ROUNDS, sizeof *values, ascending);
    return values[ROUNDS / 2];
}

typedef struct frames {
    char *at[FRAMES];
    int n[FRAMES];
    size_t bytes;
} frames;

static frames mix;

static double time_decode(void)
{
    static ssmd_message message;
    double rounds[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double start = now_ns();
        for (int i = 0; i < FRAMES; i++)
            ssmd_message_decode(&message, (const uint8_t *)mix.at[i], (size_t)mix.n[i], 3, UINT64_MAX);
        rounds[round] = (now_ns() - start) / FRAMES;
    }
    return median(rounds);
}

static double time_normalize(void)
{
    static uint8_t out[1 << 20];
    double rounds[ROUNDS];
    ssmd_frame_meta meta = {.flags = 3, .connection = 1};
    for (int round = 0; round < ROUNDS; round++) {
        double start = now_ns();
        size_t at = 0, written;
        for (int i = 0; i < FRAMES; i++, at += written) {
            if (at > sizeof out - 4096)
                at = 0;
            ssmd_normalize((const uint8_t *)mix.at[i], (size_t)mix.n[i], &meta, out + at, sizeof out - at, &written);
        }
        rounds[round] = (now_ns() - start) / FRAMES;
    }
    return median(rounds);
}

/* All frames as one stream, in reads of `chunk` bytes; the ring is emptied (not read) between reads. */
static double time_feed(size_t chunk)
{
    char path[] = "/dev/shm/ssmd-decode-XXXXXX";
    ssmd_ring *ring, *drain;
    ssmd_writer *writer;
    ssmd_conn *conn;
    ssmd_error error;
    double rounds[ROUNDS];
    close(mkstemp(path));
    unlink(path);
    if (ssmd_ring_open(path, 4u << 20, SSMD_PRODUCER, &ring, &error) != SSMD_OK ||
        ssmd_ring_open(path, 0, SSMD_CONSUMER, &drain, &error) != SSMD_OK ||
        ssmd_writer_open(ring, 0, &writer) != SSMD_OK)
        exit(1);
    ssmd_conn_options options = {.connection = 1, .use_yes_price = 1, .keep_frames = 1, .recv_bytes = chunk};
    uint8_t *stream = malloc(mix.bytes + FRAMES * 4), *to = stream;
    for (int i = 0; i < FRAMES; i++) {
        to[0] = 0x81;
        to[1] = 126;
        to[2] = (uint8_t)(mix.n[i] >> 8);
        to[3] = (uint8_t)mix.n[i];
        memcpy(to + 4, mix.at[i], (size_t)mix.n[i]);
        to += 4 + mix.n[i];
    }
    for (int round = 0; round < ROUNDS; round++) {
        double spent = 0;
        if (ssmd_conn_open(writer, &options, &conn) != SSMD_OK) /* a new one: sequence numbers start again */
            exit(1);
        for (const uint8_t *at = stream; at < to;) {
            size_t n = (size_t)(to - at) < chunk ? (size_t)(to - at) : chunk;
            memcpy(ssmd_conn_buffer(conn), at, n);
            at += n;
            double start = now_ns();
            int status = ssmd_conn_feed(conn, n);
            for (; status == SSMD_FEED_FULL || status == SSMD_FEED_MORE; status = ssmd_conn_feed(conn, 0)) {
                const uint8_t *records;
                uint64_t bytes;
                if (ssmd_ring_peek(drain, &records, &bytes) == SSMD_OK)
                    ssmd_ring_release(drain, bytes);
            }
            spent += now_ns() - start;
        }
        rounds[round] = spent / FRAMES;
        ssmd_conn_close(conn);
    }
    ssmd_writer_close(writer);
    ssmd_ring_close(drain);
    ssmd_ring_close(ring);
    unlink(path);
    free(stream);
    return median(rounds);
}

int main(void)
{
    char frame[2048];
    for (unsigned i = 0; i < FRAMES; i++) {
        int n = write_frame(frame, i);
        mix.at[i] = calloc(1, (size_t)n + SSMD_JSON_PADDING_BYTES); /* what json.h asks for behind a text */
        memcpy(mix.at[i], frame, (size_t)n);
        mix.n[i] = n;
        mix.bytes += (size_t)n;
    }
    printf("%d frames, mean %zu bytes\n", FRAMES, mix.bytes / FRAMES);
    printf("decode                   %6.1f ns\n", time_decode());
    printf("decode, write            %6.1f ns\n", time_normalize());
    printf("feed, reads of 256 KiB   %6.1f ns\n", time_feed(256u << 10));
    printf("feed, reads of 16 KiB    %6.1f ns\n", time_feed(16u << 10));
    printf("feed, reads of 4 KiB     %6.1f ns\n", time_feed(4u << 10));
    return 0;
}
