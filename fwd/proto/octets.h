/* What the stages share: numbers as they stand in packets, sums, bounds. */

#ifndef FWD_OCTETS_H
#define FWD_OCTETS_H

#include <stdint.h>
#include <string.h>

#define VNET_OCTETS 10 /* struct virtio_net_hdr, little-endian */
#define IP4_OCTETS 20  /* without options */
#define IP6_OCTETS 40
#define UDP_OCTETS 8
#define TRAILER_OCTETS 2 /* pad length, next header */
#define NEEDS_CSUM 1
#define TCP_PROTOCOL 6
#define UDP_PROTOCOL 17
#define TCP_CSUM 16 /* where the checksum is in the header */
#define UDP_CSUM 6
#define IP_DF 0x40

#define COUNT_MAX (1 << 20)    /* of rows, and the octets between two of them: products of two fit 64 bits by far */
#define BUFFER_MAX (1LL << 40) /* octets of a buffer */

static inline uint32_t get16(const uint8_t *at) {
    return (uint32_t)at[0] << 8 | at[1];
}

static inline uint32_t get16le(const uint8_t *at) {
    return (uint32_t)at[1] << 8 | at[0];
}

static inline uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void put16le(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16);
    put16(at + 2, value);
}

/* Whether `count` parts of `octets`, `stride` apart from part `first` on, lie within `size` octets. */
static inline int lies_within(int64_t size, int64_t stride, int64_t first, int64_t count, int64_t octets) {
    if (size < 0 || size > BUFFER_MAX || first < 0 || first > COUNT_MAX || count < 0 || count > COUNT_MAX)
        return 0;
    if (stride < 1 || stride > COUNT_MAX || octets < 0 || octets > stride)
        return 0;
    return count == 0 || (first + count - 1) * stride + octets <= size;
}

/* -- sums of 16-bit words (RFC 1071) ----------------------------------------------------------------------------- */

static inline uint32_t folded(uint64_t total) {
    total = (total & 0xFFFFFFFF) + (total >> 32);
    total = (total & 0xFFFFFFFF) + (total >> 32);
    total = (total & 0xFFFF) + (total >> 16);
    total = (total & 0xFFFF) + (total >> 16);
    return (uint32_t)((total & 0xFFFF) + (total >> 16));
}

/* The folded sum of octets: 0 of zeros alone, else never. Taken in the machine's own order, many words at a time. */
static inline uint32_t sum_of(const uint8_t *at, int64_t octets) {
    uint64_t one = 0, other = 0;
    uint32_t words[8];
    for (; octets >= 32; octets -= 32, at += 32) {
        memcpy(words, at, sizeof words);
        one += (uint64_t)words[0] + words[2] + words[4] + words[6];
        other += (uint64_t)words[1] + words[3] + words[5] + words[7];
    }
    for (; octets >= 4; octets -= 4, at += 4) {
        memcpy(words, at, 4);
        one += words[0];
    }
    if (octets > 0) {
        words[0] = 0;
        memcpy(words, at, (size_t)octets);
        one += words[0];
    }
    const uint32_t total = folded(one + other);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (total & 0xFF) << 8 | total >> 8;
#else
    return total;
#endif
}

/* The sum over the pseudo-header: addresses, protocol, and length of what is behind the IP header. */
static inline uint32_t pseudo_sum(const uint8_t *ip, uint32_t protocol, uint32_t octets) {
    if (ip[0] >> 4 == 4)
        return sum_of(ip + 12, 8) + protocol + octets;
    return sum_of(ip + 8, 32) + protocol + octets;
}

/* Write an IPv4 header's length, and its checksum anew. */
static inline void put_ip4_length(uint8_t *ip, uint32_t length, int64_t header) {
    put16(ip + 2, length);
    put16(ip + 10, 0);
    put16(ip + 10, 0xFFFF - sum_of(ip, header));
}

#endif
