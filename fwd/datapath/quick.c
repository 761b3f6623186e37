/* A member's loop while all that comes is simple: a segment of the ring that goes at once, a datagram of the SA in hand
 * that follows the one before and has whole records. What else comes is told, and left as it is, for Python to go on
 * with (datapath/quick.py), which says what simple means beyond what is looked at here.
 *
 * It keeps the order of outbound.py and inbound.py, so that a death between any two steps leaves the same: `taken` before
 * anything is sealed, numbers in the ledger before they are used, what was received counted before it is opened, and the
 * highest number published before anything is delivered.
 */

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include <netinet/in.h>

#include "plan.h"

#include "core.h"
#include "quick.h"

#define FRAMING_OCTETS 4
#define OVERHEAD_OCTETS 32 /* of an ESP packet, around its row */
#define SUBTYPE_RECORDS 0xD0
#define NEXT_AGGFRAG 144
#define UDP_SEGMENT 103
#define UDP_GRO 104
#define RXQ_OVFL 40
#define IPV6_FLOW_INFO 11
#define TRAFFIC_CLASS_SHIFT 20
#define GSO_DATAGRAMS_MAX 64
#define RECORDS_MAX 1024     /* of a segment */
#define SEGMENTS_A_TURN 2    /* before the other direction has its turn */
#define DATAGRAMS_A_TURN 16
#define NUMBERS_MAX 4096 /* taken before Python is told */
/* Words of a ring (ring.py), and fields of a segment. */
enum { HEAD = 0, LEFT = 1, TAKEN = 0, DONE = 8 };
enum { FILL = 0, RECORDS = 1, TOS = 2, CHUNK = 3, FIELDS = 4 };
/* How a step has ended, beside FWD_*. */
enum { NOTHING = -1, GOES_ON = -2 };

static uint64_t load(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Make all that was counted visible at once (CounterBlock.publish). */
static void publish(fwd_quick *quick) {
    const uint64_t commit = load(quick->block) + 1;
    memcpy(quick->block + 1 + (commit & 1 ? quick->n_counters : 0), quick->counters,
           (size_t)quick->n_counters * sizeof *quick->counters);
    store(quick->block, commit);
}

/* -- out ----------------------------------------------------------------------------------------------------------- */

/* Send octets of sealed packets at once; whether the kernel took them. */
static int send_group(fwd_quick *quick, int64_t at, int64_t octets) {
    union {
        struct cmsghdr head;
        uint8_t octets[CMSG_SPACE(sizeof(uint16_t))];
    } control;
    struct iovec part = {quick->out + at, (size_t)octets};
    struct msghdr message = {.msg_name = quick->peer, .msg_namelen = (socklen_t)quick->peer_octets, .msg_iov = &part,
                             .msg_iovlen = 1};
    if (octets > quick->packet_octets) {
        const uint16_t size = (uint16_t)quick->packet_octets;
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.head.cmsg_level = IPPROTO_UDP;
        control.head.cmsg_type = UDP_SEGMENT;
        control.head.cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(&control.head), &size, sizeof size);
    }
    ssize_t done;
    do
        done = sendmsg(quick->data, &message, MSG_DONTWAIT);
    while (done < 0 && errno == EINTR);
    return done >= 0;
}

/* Send what was sealed, from octet `at` on; FWD_UNSENT: the kernel has refused what is there. */
static int send_sealed(fwd_quick *quick) {
    const int64_t size = quick->packet_octets, most = quick->send_octets_max / size;
    const int64_t group = (most < GSO_DATAGRAMS_MAX ? most : GSO_DATAGRAMS_MAX) * size;
    while (quick->at < quick->end) {
        const int64_t left = quick->end - quick->at, octets = left < group ? left : group;
        if (!send_group(quick, quick->at, octets))
            return FWD_UNSENT;
        const int64_t packets = (octets + size - 1) / size;
        quick->counters[quick->out_esp] += (uint64_t)packets;
        quick->counters[quick->out_esp_bytes] += (uint64_t)octets;
        quick->packets -= packets;
        quick->at += octets;
    }
    return GOES_ON;
}

/* Seal and send a segment, if one waits. FWD_TURN: it is not for this loop, and was not touched. */
static int send_segment(fwd_quick *quick) {
    const uint64_t number = load(&quick->member_words[TAKEN]);
    if (number >= load(&quick->demux_words[HEAD]))
        return NOTHING;
    const int index = (int)(number % FWD_RING_SEGMENTS);
    const volatile uint32_t *fields = quick->fields + index * FIELDS; /* another process writes them: read once */
    const int64_t fill = fields[FILL], records = fields[RECORDS], chunk = fields[CHUNK];
    const int32_t tos = (int32_t)(fields[TOS] & 0xFC);
    if (quick->seals == NULL || number < load(&quick->demux_words[LEFT]) || tos != quick->tos || fill < 1 || chunk < 1 ||
        chunk > quick->stride || records < 1 || records > RECORDS_MAX)
        return FWD_TURN;
    const int64_t packets = (fill + chunk - 1) / chunk, size = FRAMING_OCTETS + chunk + TRAILER_OCTETS + OVERHEAD_OCTETS;
    if ((packets > 1 && !quick->offload) || packets > quick->rows_octets / quick->stride ||
        size > quick->send_octets_max || quick->number > quick->number_max ||
        (uint64_t)packets > quick->number_max - quick->number)
        return FWD_TURN;

    /* From here on it dies with this incarnation, and its numbers are never used again. */
    store(&quick->member_words[TAKEN], number + 1);
    const uint64_t first = quick->number + 1;
    quick->number += (uint64_t)packets;
    store(quick->ledger, quick->number);
    quick->segment = number;
    quick->end = fwd_seal_records(quick->seals, first, quick->rows[index], quick->rows_octets, quick->stride, chunk,
                                  quick->ends[index], quick->ends_octets, records, fill, quick->out, quick->out_octets);
    if (quick->end < 0)
        return FWD_UNSEALED;

    /* It is not sent if its buckets have moved meanwhile: this process may have slept since. */
    if (number < load(&quick->demux_words[LEFT])) {
        quick->counters[quick->buckets_moved] += (uint64_t)records;
    } else {
        const volatile uint32_t *ends = quick->ends[index];
        const int64_t octets = (int64_t)ends[records - 1] - VNET_OCTETS * records;
        quick->counters[quick->out_records] += (uint64_t)records;
        quick->counters[quick->out_bytes] += octets > 0 ? (uint64_t)octets : 0;
        quick->at = 0;
        quick->packet_octets = size;
        quick->packets = packets;
        if (send_sealed(quick) == FWD_UNSENT)
            return FWD_UNSENT;
    }
    quick->counters[quick->done] = number + 1;
    publish(quick);
    store(&quick->member_words[DONE], number + 1);
    return GOES_ON;
}

/* -- in ------------------------------------------------------------------------------------------------------------ */

/* Receive once, and tell what came with it; FWD_READY: there was an error, which is for Python to find again. */
static int receive(fwd_quick *quick) {
    union {
        struct cmsghdr head;
        uint8_t octets[FWD_ANCILLARY_OCTETS];
    } control;
    struct iovec part = {quick->space, (size_t)quick->space_octets};
    struct msghdr message = {.msg_name = quick->came_name, .msg_namelen = sizeof quick->came_name, .msg_iov = &part,
                             .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length;
    do
        length = recvmsg(quick->data, &message, MSG_DONTWAIT); /* whatever a predecessor has made of it */
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? NOTHING : FWD_READY;
    quick->length = quick->size = length;
    quick->came_flow_info = quick->came_lost = 0;
    quick->came_name_octets = (int32_t)message.msg_namelen;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one != NULL; one = CMSG_NXTHDR(&message, one)) {
        const uint8_t *data = CMSG_DATA(one);
        if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_TOS) {
            quick->came_flow_info = (uint32_t)data[0] << TRAFFIC_CLASS_SHIFT;
        } else if (one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == IPV6_FLOW_INFO) {
            quick->came_flow_info = get32(data);
        } else if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == RXQ_OVFL) {
            memcpy(&quick->came_lost, data, sizeof quick->came_lost);
        } else if (one->cmsg_level == IPPROTO_UDP && one->cmsg_type == UDP_GRO) {
            int32_t size;
            memcpy(&size, data, sizeof size);
            quick->size = size;
        }
    }
    const int64_t count = quick->size > 0 ? (quick->length + quick->size - 1) / quick->size : 1;
    store(quick->rx_taken, quick->counters[quick->in_esp] + (uint64_t)count);
    return GOES_ON;
}

/* Whether the datagram that was received is of the SA in hand and its peer, and has not lain in the socket for long. */
static int is_expected(const fwd_quick *quick, int64_t now_ns) {
    return quick->opens != NULL && quick->size == quick->length && quick->length >= OVERHEAD_OCTETS + TRAILER_OCTETS &&
           quick->length <= quick->packet_octets_max && quick->came_flow_info == quick->flow_info &&
           (quick->came_lost == 0 || quick->came_lost == (uint32_t)quick->counters[quick->socket_overflow]) &&
           quick->came_name_octets == quick->name_octets &&
           memcmp(quick->came_name, quick->name, (size_t)quick->name_octets) == 0 &&
           get32(quick->space) == quick->spi && now_ns - quick->empty_ns < quick->unread_ns &&
           now_ns - quick->read_ns < quick->unread_ns;
}

/* Octets of records in an opened row of so many octets that begins a record; 0: it carries none, or anything else. */
static int64_t records_octets(const uint8_t *row, int64_t octets) {
    int64_t length = octets - TRAILER_OCTETS;
    const int64_t pad = row[length];
    if (pad > length || row[octets - 1] != NEXT_AGGFRAG)
        return 0;
    length -= pad;
    for (int64_t i = 0; i < pad; i++)
        if (row[length + i] != i + 1)
            return 0;
    if (length <= FRAMING_OCTETS || row[0] != SUBTYPE_RECORDS || row[1] || row[2] || row[3])
        return 0;
    return length - FRAMING_OCTETS;
}

/* Open what was received, and write its records; FWD_DATAGRAM: it is not for this loop, and nothing was done with it. */
static int take(fwd_quick *quick, int64_t now_ns) {
    fwd_way *way = quick->way;
    uint64_t number = 0;
    uint8_t refused = 0;
    const int32_t shorter[2] = {0, (int32_t)quick->length};
    if (!is_expected(quick, now_ns) ||
        fwd_open(quick->opens, quick->top, quick->window, quick->space, quick->space_octets, quick->packet_octets_max, 0,
                 1, shorter, 1, quick->opened, way->rows_octets, way->stride, 0, &number, &refused, 1) != 0 ||
        number != quick->next)
        return FWD_DATAGRAM;
    const int64_t have = records_octets(quick->opened, quick->length - OVERHEAD_OCTETS);
    if (have == 0 || have > way->chunk)
        return FWD_DATAGRAM;
    if (fwd_plan_records(way, 0, 0, have) != FWD_ALL || way->at != have) {
        fwd_forget_plan(way);
        return FWD_DATAGRAM;
    }

    /* Nothing is delivered before its number is published: a successor takes it for seen. */
    quick->top = number;
    quick->next = number + 1;
    if (quick->taken++ == 0)
        quick->first_number = number;
    quick->octets += (uint64_t)quick->length;
    store(quick->slot_top, number);
    store(quick->slot_octets, quick->octets);
    plan_carry_out(way->plan, way);

    uint64_t *counters = quick->counters;
    counters[quick->in_esp_ok]++;
    counters[quick->in_records] += (uint64_t)way->taken;
    counters[quick->in_records_ok] += (uint64_t)way->written;
    counters[quick->in_bytes] += (uint64_t)way->octets;
    counters[quick->tun_refused] += (uint64_t)way->refused;
    counters[quick->in_esp]++;
    counters[quick->in_esp_bytes] += (uint64_t)quick->length;
    publish(quick);
    return GOES_ON;
}

/* Receive and take datagrams until there are none, or one is not for this loop. This process may stop between any two. */
static int receive_all(fwd_quick *quick) {
    for (int i = 0; i < DATAGRAMS_A_TURN; i++) {
        int why = receive(quick);
        if (why == NOTHING) {
            quick->empty_ns = quick->read_ns;
            quick->was_empty = 1;
            quick->empty_esp = quick->counters[quick->in_esp];
            quick->empty_bytes = quick->counters[quick->in_esp_bytes];
            return GOES_ON;
        }
        const int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
        if (why == GOES_ON)
            why = take(quick, now_ns);
        if (why != GOES_ON)
            return why;
        quick->read_ns = quick->heard_ns = now_ns;
        if (quick->sent_ns && !quick->sent_before_ns)
            quick->sent_before_ns = quick->sent_ns;
        quick->sent_ns = 0;
    }
    return quick->taken >= NUMBERS_MAX ? FWD_TURN : GOES_ON;
}

/* -- the loop -------------------------------------------------------------------------------------------------------- */

/* Wait until something is ready, `until_ns` at the latest. Returns how many descriptors are, and sets bits of `ready`. */
static int wait(fwd_quick *quick, int64_t until_ns, int64_t now_ns) {
    struct epoll_event events[8];
    int64_t wait_ms = until_ns > now_ns ? (until_ns - now_ns + 999999) / 1000000 : 0;
    wait_ms = wait_ms < INT_MAX ? wait_ms : INT_MAX;
    const int count = epoll_wait(quick->epoll, events, 8, (int)wait_ms);
    quick->ready = 0;
    for (int i = 0; i < count; i++) {
        if (events[i].data.fd == quick->data)
            quick->ready |= 1;
        else if (events[i].data.fd == quick->control)
            quick->ready |= 2;
    }
    return count;
}

/* Go on for as long as all that comes is simple. Nothing is received or sent on an SA beyond its end. */
int64_t fwd_quick_wait(fwd_quick *quick, int64_t until_ns) {
    quick->taken = quick->was_sent = quick->was_empty = 0;
    quick->sent_before_ns = quick->sent_ns = quick->heard_ns = 0;
    int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    for (;;) {
        if (load(&quick->demux_words[LEFT]) != quick->left)
            return FWD_TURN;
        int why = NOTHING, sent = 0;
        while (sent < SEGMENTS_A_TURN && (why = send_segment(quick)) == GOES_ON)
            sent++;
        if (sent || why == FWD_UNSENT || why == FWD_UNSEALED) {
            quick->was_sent = 1;
            if (!quick->sent_ns)
                quick->sent_ns = now_ns;
        }
        if (why >= 0)
            return why;
        if (sent && quick->tells_sent)
            return FWD_TURN;

        const int count = wait(quick, sent == SEGMENTS_A_TURN ? 0 : until_ns, now_ns);
        now_ns = clock_ns(CLOCK_MONOTONIC);
        store(quick->heartbeat, (uint64_t)now_ns);
        if (count < 0)
            return FWD_TURN;
        if (quick->ready & 2 || (uint64_t)(clock_ns(CLOCK_BOOTTIME) / 1000000) >= quick->deadline_ms)
            return FWD_READY;
        if (quick->ready & 1 && (why = receive_all(quick)) >= 0)
            return why;
        if (now_ns >= until_ns)
            return FWD_DUE;
    }
}
