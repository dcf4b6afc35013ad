/* floor.c - the least a recorder can do: receive, walk the frames, stamp, write. No check, no parsing.
 * The line that every other figure of the path benchmark is held against. */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_BYTES = 256 * 1024 };

static size_t frame_bytes(const uint8_t *at, size_t have)
{
    if (have < 2) {
        return 0;
    }
    const size_t small = at[1] & 0x7f;
    size_t size = small + 2;
    if (small == 126) {
        if (have < 4) {
            return 0;
        }
        size = ((size_t)at[2] << 8 | at[3]) + 4;
    } else if (small == 127) {
        return 0; /* the benchmark sends none */
    }
    return size <= have ? size : 0;
}

__attribute__((visibility("default"))) int64_t floor_record(int connection, const char *path)
{
    static uint8_t buffer[2 * CHUNK_BYTES];
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    int64_t messages = 0;
    size_t filled = 0;
    if (file < 0) {
        return -1;
    }
    for (;;) {
        const ssize_t received = recv(connection, buffer + filled, CHUNK_BYTES, 0);
        if (received <= 0) {
            break;
        }
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        filled += (size_t)received;
        size_t offset = 0;
        size_t size;
        while ((size = frame_bytes(buffer + offset, filled - offset)) != 0) {
            if ((buffer[offset] & 0x0f) == 8) {
                close(file);
                return messages;
            }
            messages++;
            offset += size;
        }
        if (write(file, &now, sizeof now) < 0 || write(file, buffer, offset) < 0) {
            break;
        }
        memmove(buffer, buffer + offset, filled - offset);
        filled -= offset;
    }
    close(file);
    return messages;
}
