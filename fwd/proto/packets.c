/* Payload esp, compiled: what segments.py and payloads/esp.py say in Python.
 *
 *   fwd_complete        rows as the demux has laid them -> packets with all their headers and checksums, and their runs
 *   fwd_write_packets   opened rows -> the TUN device, TCP data that a super-packet can stand for as one
 *
 * Both take a burst in one pass, and nothing is kept of it. What one cannot judge, or need not know, it leaves where it
 * is, and says so. No number is believed: neither the caller's, nor the demux's, which is another process, nor what
 * stands in a packet.
 */

#include "plan.h"

#include "core.h"

#define OVERHEAD_OCTETS 32 /* SPI, sequence number, IV, ICV */
#define NEXT_IPV4 4
#define NEXT_IPV6 41
#define TCP_OCTETS 20
#define FIN_PSH 0x09
#define PSH 0x08
#define ACK 0x10
#define CWR 0x80
#define GSO_TCP4 1
#define PAD_MAX 3          /* what alignment needs; more is traffic-flow padding, and rare */
#define SEGMENT_MIN 48     /* ip.TCP_SEGMENT_MIN */
#define PACKET_MAX 65535   /* octets of an IP packet */
#define BATCH_MAX 256      /* packets opened together, at most */
#define MARK_UDP 0x80      /* of a mark: start of the transport header, this, and how many rows there are */
#define MARK_COUNT 0x7F
#define START_MAX 0xFF
#define HEADER_MAX (START_MAX + 60)

/* -- out: rows -> packets ---------------------------------------------------------------------------------------- */

/* Complete the checksum of the only packet that a mark is for. */
static int complete_one(uint8_t *row, int64_t length, uint32_t mark) {
    const int64_t start = mark >> 8, at = start + (mark & MARK_UDP ? UDP_CSUM : TCP_CSUM);
    if (at + 2 > length)
        return 0;
    put16(row + at, 0xFFFF - sum_of(row + start, length - start) % 0xFFFF);
    return 1;
}

/* Give each of `count` rows its own headers, from those of the super-packet in the first. `start` is where TCP begins;
 * all are `full` octets long but the last. */
static int split(uint8_t *row, int64_t stride, int64_t count, int64_t start, int64_t full, int64_t last) {
    uint8_t head[HEADER_MAX];
    if (start + TCP_OCTETS > full)
        return 0;
    const int is_4 = row[0] >> 4 == 4;
    const int64_t header = start + (row[start + 12] >> 4) * 4;
    if (start < (is_4 ? IP4_OCTETS : IP6_OCTETS) || header < start + TCP_OCTETS || header > last || last > full)
        return 0;
    memcpy(head, row, (size_t)header);
    const uint32_t identity = get16(head + 4), sequence = get32(head + start + 4);

    for (int64_t i = 0; i < count; i++, row += stride) {
        const int64_t length = i < count - 1 ? full : last;
        memcpy(row, head, (size_t)header);

        /* IP: each packet has its own length, and in IPv4 its own identification and checksum. */
        if (is_4) {
            put16(row + 4, identity + (uint32_t)i);
            put_ip4_length(row, (uint32_t)length, start);
        } else {
            put16(row + 4, (uint32_t)(length - IP6_OCTETS));
        }

        /* TCP: sequence numbers go on; FIN and PSH belong to the last, CWR to the first. */
        uint8_t *tcp = row + start;
        put32(tcp + 4, sequence + (uint32_t)(i * (full - header)));
        if (i < count - 1)
            tcp[13] &= 0xFF - FIN_PSH;
        if (i > 0)
            tcp[13] &= 0xFF - CWR;
        put16(tcp + TCP_CSUM, 0);
        const uint64_t sum = sum_of(tcp, length - start);
        put16(tcp + TCP_CSUM, 0xFFFF - folded(sum + pseudo_sum(row, TCP_PROTOCOL, (uint32_t)(length - start))));
    }
    return 1;
}

/* Runs of packets of one length and IP version, each with one shorter packet behind it if any. */
struct runs {
    int32_t *words; /* four of each: full packets, octets of each, octets of the shorter one or 0, next header */
    int64_t count;
};

static void add_to_runs(struct runs *runs, int64_t length, int version) {
    const int32_t next_header = version == 6 ? NEXT_IPV6 : NEXT_IPV4;
    int32_t *run = runs->words + 4 * (runs->count - 1);
    if (runs->count && !run[2] && run[3] == next_header && length <= run[1]) {
        if (length == run[1])
            run[0]++;
        else
            run[2] = (int32_t)length;
        return;
    }
    run += 4;
    run[0] = 1;
    run[1] = (int32_t)length;
    run[2] = 0;
    run[3] = next_header;
    runs->count++;
}

/* Complete the packets of `fill` rows, as the marks above their lengths in `words` tell, and find their runs; `octets`
 * becomes how many all have. Returns how many runs there are. */
int64_t fwd_complete(uint8_t *rows, int64_t rows_octets, int64_t stride, const uint32_t *words, int64_t words_octets,
                     int64_t fill, int32_t *runs, int64_t runs_octets, int64_t *octets) {
    if (rows == NULL || words == NULL || runs == NULL || octets == NULL || fill < 1 ||
        fill > words_octets / (int64_t)sizeof *words || fill > runs_octets / (4 * (int64_t)sizeof *runs) ||
        !lies_within(rows_octets, stride, 0, fill, stride))
        return FWD_BAD_ARGUMENT;

    struct runs found = {runs, 0};
    int64_t total = 0;
    for (int64_t at = 0; at < fill;) {
        /* The demux may write other words at any time: each is read once. */
        const uint32_t word = ((const volatile uint32_t *)words)[at], mark = word >> 16;
        const int64_t full = word & 0xFFFF, count = mark & MARK_COUNT ? mark & MARK_COUNT : 1;
        uint8_t *row = rows + at * stride;
        if (full < 1 || full > stride || count > fill - at)
            return FWD_BAD_ARGUMENT;
        const int64_t last = count > 1 ? ((const volatile uint32_t *)words)[at + count - 1] & 0xFFFF : full;
        if (mark && !(count > 1 ? split(row, stride, count, mark >> 8, full, last) : complete_one(row, full, mark)))
            return FWD_BAD_ARGUMENT;

        for (int64_t i = 0; i < count; i++, row += stride)
            add_to_runs(&found, i < count - 1 ? full : last, row[0] >> 4);
        total += full * (count - 1) + last;
        at += count;
    }
    *octets = total;
    return found.count;
}

/* -- in: rows -> the TUN device ---------------------------------------------------------------------------------- */

/* What an opened row has. */
struct look {
    const uint8_t *row;
    int32_t size;    /* of its IP packet; 0: it has none, or one that does not go as it is */
    int32_t header;  /* IP's and TCP's, if it may be part of a super-packet; else 0 */
    int32_t payload; /* then */
    uint32_t sequence;
    int32_t is_sound; /* its checksums: -1 until somebody wants to know */
};

static void look_at(struct look *it, const uint8_t *row, int64_t octets, int outer_ecn) {
    memset(it, 0, sizeof *it);
    it->row = row;
    it->is_sound = -1;

    /* Padding is 1, 2, 3, and so on (RFC 4303 §2.4). */
    int64_t length = octets - TRAILER_OCTETS;
    if (length < 0 || row[length] > length)
        return;
    const int pad = row[length], next_header = row[length + 1];
    length -= pad;
    for (int i = 0; i < pad; i++)
        if (row[length + i] != i + 1)
            return;

    /* What its header says must fit in what came; and ECN of the path must say nothing more than its own (RFC 6040). */
    int64_t size;
    int inner_ecn;
    if (next_header == NEXT_IPV4 && length >= IP4_OCTETS && row[0] >> 4 == 4) {
        size = get16(row + 2);
        inner_ecn = row[1] & 3;
        if (size < IP4_OCTETS)
            return;
    } else if (next_header == NEXT_IPV6 && length >= IP6_OCTETS && row[0] >> 4 == 6 && get16(row + 4)) {
        size = IP6_OCTETS + get16(row + 4);
        inner_ecn = row[1] >> 4 & 3;
    } else {
        return;
    }
    if (size > length || (outer_ecn && outer_ecn != inner_ecn))
        return;
    it->size = (int32_t)size;

    /* TCP over IPv4 without options, with data, and no flag but ACK and PSH. */
    if (next_header == NEXT_IPV4 && size == length && pad <= PAD_MAX && row[0] == 0x45 && row[6] == IP_DF && row[7] == 0 &&
        row[9] == TCP_PROTOCOL && size > IP4_OCTETS + TCP_OCTETS && (row[33] & (0xFF - PSH)) == ACK) {
        const int32_t header = IP4_OCTETS + (row[32] >> 4) * 4;
        if (header >= IP4_OCTETS + TCP_OCTETS && header < size) {
            it->header = header;
            it->payload = (int32_t)size - header;
            it->sequence = get32(row + 24);
        }
    }
}

static int is_sound(struct look *it) {
    if (it->is_sound < 0) {
        const int64_t octets = it->size - IP4_OCTETS;
        const uint64_t sum = sum_of(it->row + IP4_OCTETS, octets);
        it->is_sound = sum_of(it->row, IP4_OCTETS) == 0xFFFF &&
                       folded(sum + pseudo_sum(it->row, TCP_PROTOCOL, (uint32_t)octets)) == 0xFFFF;
    }
    return it->is_sound;
}

/* Whether a row goes on where the one before ends: in sequence, no longer, and with the same headers but for what differs
 * from packet to packet. */
static int follows(struct look *it, struct look *before) {
    const uint8_t *a = it->row, *b = before->row;
    return it->header && it->header == before->header && it->payload <= before->payload &&
           before->payload >= SEGMENT_MIN && !(b[33] & PSH) &&
           it->sequence == before->sequence + (uint32_t)before->payload && a[1] == b[1] && a[8] == b[8] &&
           memcmp(a + 12, b + 12, 12) == 0 && memcmp(a + 28, b + 28, 5) == 0 && memcmp(a + 34, b + 34, 2) == 0 &&
           memcmp(a + 38, b + 38, (size_t)(it->header - 38)) == 0 && is_sound(before) && is_sound(it);
}

/* Write the headers of the super-packet that stands for a run, and begin its write. */
static void begin_super(fwd_plan *plan, const struct look *first, int64_t count, int64_t payload, int last_flags) {
    uint8_t *head = plan_head(plan), *ip = head + VNET_OCTETS;
    const int64_t length = first->header + payload;
    head[0] = NEEDS_CSUM;
    head[1] = GSO_TCP4;
    put16le(head + 2, (uint32_t)first->header);
    put16le(head + 4, (uint32_t)first->payload);
    put16le(head + 6, IP4_OCTETS);
    put16le(head + 8, TCP_CSUM);
    memcpy(ip, first->row, (size_t)first->header);
    put_ip4_length(ip, (uint32_t)length, IP4_OCTETS);
    ip[33] |= last_flags & PSH;
    put16(ip + IP4_OCTETS + TCP_CSUM, folded(pseudo_sum(ip, TCP_PROTOCOL, (uint32_t)(length - IP4_OCTETS))) % 0xFFFF);
    plan_write(plan, count, count * first->header + payload);
    plan_part(plan, head, VNET_OCTETS + first->header);
}

/* Write rows from `at` of `count` on, which lie from row `first` on with `octets` in each, but for those that `shorter`
 * names: the index among them, and the octets of the packet that it was. `tos` is the outer TOS octet of all of them.
 *
 * FWD_OTHER: row `at` has no packet that goes as it is. FWD_UNKNOWN: its addresses are not known to be allowed. */
int64_t fwd_write_packets(fwd_way *way, int64_t first, int64_t count, int64_t at, int64_t octets,
                          const int32_t *shorter, int64_t shorter_count, int tos) {
    static const uint8_t nothing[VNET_OCTETS];
    if (way == NULL || way->rows == NULL || way->plan == NULL || shorter == NULL || at < 0 || count > BATCH_MAX ||
        shorter_count < 0 || shorter_count > count || !lies_within(way->rows_octets, way->stride, first, count, octets))
        return FWD_BAD_ARGUMENT;
    int32_t lengths[BATCH_MAX];
    for (int64_t i = 0; i < count; i++)
        lengths[i] = (int32_t)octets;
    for (int64_t i = 0; i < shorter_count; i++) {
        const int64_t index = shorter[2 * i], length = (int64_t)shorter[2 * i + 1] - OVERHEAD_OCTETS;
        if (index < 0 || index >= count || length < 0 || length > octets)
            return FWD_BAD_ARGUMENT;
        lengths[index] = (int32_t)length;
    }

    const uint8_t *rows = way->rows + first * way->stride;
    fwd_plan *plan = way->plan;
    const int joins = (way->accepted & TUN_TSO4) != 0; /* else the device takes no super-packets */
    int why = FWD_ALL, is_looked_at = 0;
    struct look one, next;
    way->taken = way->written = way->octets = way->refused = 0;
    while (at < count) {
        if (!is_looked_at)
            look_at(&one, rows + at * way->stride, lengths[at], tos & 3);
        is_looked_at = 0;
        why = !one.size ? FWD_OTHER : !is_allowed(way, one.row) ? FWD_UNKNOWN : FWD_ALL;
        if (why != FWD_ALL)
            break;

        /* As many as one super-packet can stand for; the first that does not follow is the next one's. */
        struct look last = one;
        int64_t stop = at + 1, payload = one.payload;
        while (joins && one.header && stop < count && last.payload == one.payload) {
            look_at(&next, rows + stop * way->stride, lengths[stop], tos & 3);
            is_looked_at = 1;
            if (one.header + payload + next.payload > PACKET_MAX || !follows(&next, &last))
                break;
            payload += next.payload;
            last = next;
            is_looked_at = 0;
            stop++;
        }
        if (stop - at == 1) {
            plan_write(plan, 1, one.size);
            plan_part(plan, nothing, VNET_OCTETS);
            plan_part(plan, one.row, one.size);
        } else {
            begin_super(plan, &one, stop - at, payload, last.row[33]);
            for (int64_t i = at; i < stop; i++)
                plan_part(plan, rows + i * way->stride + one.header, i < stop - 1 ? one.payload : last.payload);
        }
        way->taken += stop - at;
        at = stop;
        if (is_looked_at)
            one = next;
    }
    way->at = at;
    plan_carry_out(plan, way);
    return why;
}
