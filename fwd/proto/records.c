/* Payload superpacket, compiled: whole records of opened rows -> the TUN device, as reassembly.py, segments.py and
 * payloads/superpacket.py say in Python.
 *
 * A record is found by its own length, looked at as ip.record_fault does, and written from where it lies. Small UDP
 * datagrams of one flow and one length wait for each other until the call ends, and are written as one super-packet.
 * What is not plain is left for Python to judge: IPv4 with options, IPv6 with extension headers, whatever would be refused.
 */

#include <stdlib.h>

#include "plan.h"

#include "core.h"

#define FRAMING_OCTETS 4
#define PEEK_OCTETS (VNET_OCTETS + 6) /* of a record, that tell its length */
#define HEADERS (VNET_OCTETS + IP6_OCTETS)
#define UDP_HEADERS (VNET_OCTETS + IP4_OCTETS + UDP_OCTETS)
#define DATAGRAM_MAX 600 /* octets of a record that waits for others */
#define DATAGRAMS_MAX 64 /* of one super-packet */
#define DATA_VALID 2
#define GSO_NONE 0
#define GSO_TCP4 1
#define GSO_TCP6 4
#define GSO_UDP_L4 5
#define GSO_ECN 0x80
#define TCP_SEGMENT_MIN 48
#define UDP_SEGMENT_MIN 16
#define UDP_SEGMENTS_MAX 128

/* -- plans, and pairs of addresses ------------------------------------------------------------------------------- */

fwd_plan *fwd_plan_new(void) {
    return calloc(1, sizeof(fwd_plan));
}

void fwd_plan_free(fwd_plan *plan) {
    free(plan);
}

/* Where a pair is in a table of so many octets, of which each pair has one place. */
static int64_t place_of(const uint8_t *pair, int64_t pair_octets) {
    uint64_t hash = 0, word;
    for (int64_t at = 0; at < pair_octets; at += 8) {
        memcpy(&word, pair + at, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15;
    }
    return (int64_t)(hash >> 40) % (FWD_PAIRS_OCTETS / pair_octets) * pair_octets;
}

/* Note that a pair of addresses, of 8 or 32 octets, is allowed. One of zeros alone is not noted: it means an empty place. */
int64_t fwd_allow(uint8_t *pairs, int64_t pairs_octets, const uint8_t *pair, int64_t pair_octets) {
    if (pairs == NULL || pair == NULL || pairs_octets != FWD_PAIRS_OCTETS || (pair_octets != 8 && pair_octets != 32))
        return FWD_BAD_ARGUMENT;
    memcpy(pairs + place_of(pair, pair_octets), pair, (size_t)pair_octets);
    return 0;
}

int is_allowed(fwd_way *way, const uint8_t *ip) {
    static const uint8_t nothing[32];
    const int is_4 = ip[0] >> 4 == 4;
    const uint8_t *pair = ip + (is_4 ? 12 : 8), *pairs = is_4 ? way->pairs4 : way->pairs6;
    const int64_t octets = is_4 ? 8 : 32;
    if (pairs != NULL && memcmp(pairs + place_of(pair, octets), pair, (size_t)octets) == 0 &&
        memcmp(pair, nothing, (size_t)octets) != 0)
        return 1;
    memcpy(way->pair, pair, (size_t)octets);
    way->pair_octets = (int32_t)octets;
    return 0;
}

/* -- whether a record is plain ----------------------------------------------------------------------------------- */

/* Whether the kernel may see a record that begins with `head`: IPv4 without options or IPv6, of `length` octets. Of what
 * is refused, or takes more to judge, it says no (ip.record_fault). */
static int is_plain(const uint8_t *head, int64_t length, int32_t accepted) {
    const uint8_t *ip = head + VNET_OCTETS;
    const int is_4 = ip[0] == 0x45;
    const int64_t header = is_4 ? IP4_OCTETS : IP6_OCTETS;
    if ((!is_4 && ip[0] >> 4 != 6) || length < header)
        return 0;
    const uint32_t flags = head[0], gso = head[1], hdr_len = get16le(head + 2), gso_size = get16le(head + 4);
    const int64_t start = get16le(head + 6), offset = get16le(head + 8);
    if (hdr_len > length || flags & ~(uint32_t)(NEEDS_CSUM | DATA_VALID))
        return 0;
    if (flags & NEEDS_CSUM && !(header <= start && start + offset + 2 <= length))
        return 0;
    if (gso == GSO_NONE)
        return 1;

    /* A super-packet: TCP or UDP at once behind the IP header, and no fragment. */
    const uint32_t protocol = is_4 ? ip[9] : ip[6];
    if (!(flags & NEEDS_CSUM) || !(accepted & TUN_CSUM) || start != header || (is_4 && ((ip[6] & 0x3F) | ip[7])))
        return 0;
    if ((gso & ~(uint32_t)GSO_ECN) == (is_4 ? GSO_TCP4 : GSO_TCP6))
        return accepted & (is_4 ? TUN_TSO4 : TUN_TSO6) && gso_size >= TCP_SEGMENT_MIN && offset == TCP_CSUM &&
               start + 20 < length && protocol == TCP_PROTOCOL;
    return gso == GSO_UDP_L4 && accepted & (is_4 ? TUN_USO4 : TUN_USO6) && gso_size >= UDP_SEGMENT_MIN &&
           length - start - UDP_OCTETS <= (int64_t)gso_size * UDP_SEGMENTS_MAX && offset == UDP_CSUM &&
           start + UDP_OCTETS < length && protocol == UDP_PROTOCOL;
}

/* -- small datagrams --------------------------------------------------------------------------------------------- */

static int64_t record_octets(const uint8_t *record) {
    return VNET_OCTETS + get16(record + VNET_OCTETS + 2);
}

/* Whether IPv4 header and UDP checksum of a datagram, which must be there, are right, or the part that a device
 * completes: what is joined gets new ones. */
static int datagram_is_sound(const uint8_t *record) {
    const uint8_t *ip = record + VNET_OCTETS;
    const int64_t octets = get16(ip + 2) - IP4_OCTETS;
    if (sum_of(ip, IP4_OCTETS) != 0xFFFF)
        return 0;
    const uint64_t pseudo = pseudo_sum(ip, UDP_PROTOCOL, (uint32_t)octets);
    if (record[0] == NEEDS_CSUM)
        return get16(ip + 26) % 0xFFFF == folded(pseudo) % 0xFFFF;
    return get16(ip + 26) && folded(sum_of(ip + IP4_OCTETS, octets) + pseudo) == 0xFFFF;
}

/* Whether this record, whole and of IPv4 and UDP, may wait for others of its flow (segments.Datagrams). */
static int datagram_fits(const uint8_t *record, int64_t octets) {
    const uint8_t *ip = record + VNET_OCTETS;
    if (ip[0] != 0x45 || octets < UDP_HEADERS + UDP_SEGMENT_MIN || octets > DATAGRAM_MAX || record[1] ||
        ip[6] != IP_DF || ip[7] || get16(ip + 24) != octets - VNET_OCTETS - IP4_OCTETS)
        return 0;
    if (record[0] && (record[0] != NEEDS_CSUM || get16le(record + 6) != IP4_OCTETS || get16le(record + 8) != UDP_CSUM))
        return 0;
    return datagram_is_sound(record);
}

/* Whether a record is like the first that waits: equal but for identification, checksums and payload. */
static int datagram_is_like(const uint8_t *record, const uint8_t *first) {
    return memcmp(record, first, 14) == 0 && memcmp(record + 16, first + 16, 4) == 0 &&
           memcmp(record + 22, first + 22, 14) == 0;
}

/* Write what waits of a flow: as one super-packet, or the only one as it came. */
static void close_flow(fwd_plan *plan, struct datagrams *flow) {
    const int64_t octets = record_octets(flow->record), payload = octets - UDP_HEADERS, count = flow->count;
    plan->waits -= flow->count;
    plan->open--;
    flow->count = 0;
    plan_write(plan, count, count * (octets - VNET_OCTETS));
    if (count == 1) {
        plan_part(plan, flow->record, octets);
        return;
    }
    uint8_t *head = plan_head(plan), *ip = head + VNET_OCTETS;
    head[0] = NEEDS_CSUM;
    head[1] = GSO_UDP_L4;
    put16le(head + 2, IP4_OCTETS + UDP_OCTETS);
    put16le(head + 4, (uint32_t)payload);
    put16le(head + 6, IP4_OCTETS);
    put16le(head + 8, UDP_CSUM);
    memcpy(ip, flow->record + VNET_OCTETS, IP4_OCTETS + UDP_OCTETS);
    const uint32_t udp_octets = (uint32_t)(UDP_OCTETS + count * payload);
    put_ip4_length(ip, IP4_OCTETS + udp_octets, IP4_OCTETS);
    put16(ip + 24, udp_octets);
    put16(ip + 26, folded(pseudo_sum(ip, UDP_PROTOCOL, udp_octets)) % 0xFFFF);
    plan_part(plan, head, UDP_HEADERS);
    for (int32_t i = flow->first;; i = plan->waiting[i].next) {
        plan_part(plan, plan->waiting[i].record + UDP_HEADERS, payload);
        if (i == flow->last)
            return;
    }
}

static void close_flows(fwd_plan *plan) {
    for (int32_t i = 0; i < plan->opened && plan->open; i++)
        if (plan->flow[plan->order[i]].count)
            close_flow(plan, &plan->flow[plan->order[i]]);
    plan->opened = plan->waited = 0;
}

enum taken { ALONE, WAITS, FULL };

/* Let a datagram wait for others of its flow, or with them. ALONE: it does not, and what waited goes before it. `head` is
 * its headers, and `record` all of it if that lies in one piece, else NULL. */
static enum taken join(fwd_plan *plan, const uint8_t *head, const uint8_t *record, int64_t octets) {
    uint64_t ports_and_destination;
    memcpy(&ports_and_destination, head + 26, 8);
    const int32_t slot = (int32_t)((ports_and_destination * 0x9E3779B97F4A7C15) >> 40) & (FLOWS - 1);
    struct datagrams *flow = &plan->flow[slot];
    if (flow->count) {
        if (record != NULL && octets == record_octets(flow->record) && flow->count < DATAGRAMS_MAX &&
            datagram_is_like(record, flow->record) && datagram_is_sound(record)) {
            if (!plan_has_room(plan, 1))
                return FULL;
            plan->waiting[flow->last].next = plan->waited;
            flow->last = plan->waited;
            plan->waiting[plan->waited++].record = record;
            plan->waits++;
            flow->count++;
            return WAITS;
        }
        close_flow(plan, flow); /* that of another flow, perhaps, which has the same slot */
    }

    /* It may be the first of others. */
    if (record == NULL || !datagram_fits(record, octets))
        return ALONE;
    if (!plan_has_room(plan, 3))
        return FULL;
    plan->order[plan->opened++] = slot;
    plan->open++;
    plan->waits++;
    flow->record = record;
    flow->first = flow->last = plan->waited;
    flow->count = 1;
    plan->waiting[plan->waited++].record = record;
    return WAITS;
}

/* -- records ----------------------------------------------------------------------------------------------------- */

/* Copy octets of data that lies over rows, from octet `at` of it on; row `first` begins it. */
static void copy_out(const fwd_way *way, int64_t first, int64_t at, int64_t octets, uint8_t *to) {
    while (octets > 0) {
        const int64_t row = at / way->chunk, offset = at % way->chunk, here = way->chunk - offset;
        const int64_t part = octets < here ? octets : here;
        memcpy(to, way->rows + (first + row) * way->stride + FRAMING_OCTETS + offset, (size_t)part);
        to += part;
        at += part;
        octets -= part;
    }
}

static void write_record(const fwd_way *way, int64_t first, int64_t at, int64_t octets) {
    plan_write(way->plan, 1, octets - VNET_OCTETS);
    while (octets > 0) {
        const int64_t row = at / way->chunk, offset = at % way->chunk, here = way->chunk - offset;
        const int64_t part = octets < here ? octets : here;
        plan_part(way->plan, way->rows + (first + row) * way->stride + FRAMING_OCTETS + offset, part);
        at += part;
        octets -= part;
    }
}

/* Take one record of `octets` that begins at octet `at`, and `head` has its first ones in one piece. */
static int take_record(fwd_way *way, int64_t first, int64_t at, int64_t octets, const uint8_t *head, int64_t here) {
    fwd_plan *plan = way->plan;
    const uint8_t *ip = head + VNET_OCTETS;
    if (!is_plain(head, octets - VNET_OCTETS, way->accepted))
        return FWD_OTHER;
    if (!is_allowed(way, ip))
        return FWD_UNKNOWN;

    /* A small one that lies across rows is put together, so that it may wait, too. */
    if (ip[0] >> 4 == 4 && ip[9] == UDP_PROTOCOL && way->accepted & TUN_USO4 && octets >= UDP_HEADERS) {
        const uint8_t *record = NULL;
        if (octets <= here) {
            record = way->rows + (first + at / way->chunk) * way->stride + FRAMING_OCTETS + at % way->chunk;
        } else if (octets <= DATAGRAM_MAX) {
            if (plan->scratch_used + octets > SCRATCH_OCTETS)
                return FWD_FULL;
            copy_out(way, first, at, octets, plan->scratch + plan->scratch_used);
            record = plan->scratch + plan->scratch_used;
        }
        const enum taken taken = join(plan, head, record, octets);
        if (taken == FULL)
            return FWD_FULL;
        if (taken == WAITS) {
            plan->scratch_used += octets > here ? (int32_t)octets : 0;
            return FWD_ALL;
        }
    }

    const int64_t parts = octets <= here ? 1 : 1 + (octets - here + way->chunk - 1) / way->chunk;
    if (parts > WRITE_PARTS_MAX)
        return FWD_OTHER;
    if (!plan_has_room(plan, parts))
        return FWD_FULL;
    write_record(way, first, at, octets);
    return FWD_ALL;
}

/* Take records from octet `way->at` of `have` on, until something is in the way. */
static int take_records(fwd_way *way, int64_t first, int64_t have) {
    uint8_t copy[HEADERS];
    while (have - way->at >= PEEK_OCTETS) {
        const int64_t at = way->at, left = have - at, row = at / way->chunk, offset = at % way->chunk;
        const int64_t here = way->chunk - offset;
        const uint8_t *head = way->rows + (first + row) * way->stride + FRAMING_OCTETS + offset;
        if (here < HEADERS && here < left) {
            copy_out(way, first, at, left < HEADERS ? left : HEADERS, copy);
            head = copy;
        }

        /* The record tells its own length, in its IP header. */
        const uint8_t *ip = head + VNET_OCTETS;
        int64_t length = 0;
        if (ip[0] >> 4 == 4)
            length = get16(ip + 2);
        else if (ip[0] >> 4 == 6 && get16(ip + 4))
            length = get16(ip + 4) + IP6_OCTETS;
        way->length = VNET_OCTETS + length;
        if (length < IP4_OCTETS)
            return FWD_UNSOUND;
        if (way->length > left)
            return FWD_ALL;
        const int why = take_record(way, first, at, way->length, head, here);
        if (why != FWD_ALL)
            return why;
        way->taken++;
        way->at += way->length;
    }
    return FWD_ALL;
}

/* Whether these records lie within the rows; then their stage may begin. */
static int begin(fwd_way *way, int64_t first, int64_t at, int64_t have) {
    if (way == NULL || way->rows == NULL || way->plan == NULL || way->chunk < HEADERS || way->chunk > COUNT_MAX / 2 ||
        at < 0 || have < 0 || have > BUFFER_MAX ||
        !lies_within(way->rows_octets, way->stride, first, (have + way->chunk - 1) / way->chunk,
                     FRAMING_OCTETS + way->chunk))
        return 0;
    way->at = at;
    way->taken = way->written = way->octets = way->refused = 0;
    return 1;
}

/* Plan what fwd_write_records writes in one go, and end as it does: then it is to be carried out, or forgotten. */
int64_t fwd_plan_records(fwd_way *way, int64_t first, int64_t at, int64_t have) {
    if (!begin(way, first, at, have))
        return FWD_BAD_ARGUMENT;
    const int why = take_records(way, first, have);
    close_flows(way->plan);
    return why;
}

void fwd_forget_plan(fwd_way *way) {
    fwd_plan *plan = way->plan;
    plan->writes = plan->parts = plan->heads = plan->scratch_used = 0;
    way->taken = 0;
}

/* Write every whole record of the `have` octets of data that lie over rows from row `first` on, from octet `at` of them
 * on, which may be behind them: a BlockOffset says so. Tells where it has ended, which is where a record begins.
 *
 * FWD_OTHER, FWD_UNKNOWN: that one is not plain, or of addresses that are not known to be allowed, and has `length` octets.
 * FWD_UNSOUND: its length is none. */
int64_t fwd_write_records(fwd_way *way, int64_t first, int64_t at, int64_t have) {
    if (!begin(way, first, at, have))
        return FWD_BAD_ARGUMENT;
    int why;
    do {
        why = take_records(way, first, have);
        close_flows(way->plan);
        plan_carry_out(way->plan, way);
    } while (why == FWD_FULL);
    return why;
}
