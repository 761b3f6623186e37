/* Receives from a member's socket into slots, as Member and Inbound.take do in Python, until it is drained.
 *
 * What is not as usual is left where it was received, and told: another sender or other marks, merged datagrams of another
 * size, what is too short for ESP. Each receive is counted in the word that tells how many packets were taken, before
 * anything is done with them.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "octets.h"
#include "stages.h"

#include "core.h"

#define ESP_MIN 34 /* octets of the shortest ESP packet */
#define ANCILLARY_OCTETS 128
#define FLOW_INFO 11 /* IPV6_FLOWINFO */
#define UDP_GRO 104
#define OVERFLOW 40 /* SO_RXQ_OVFL */
#define TRAFFIC_CLASS_SHIFT 20

/* Read what the kernel tells beside the datagrams (udp.read_ancillary). */
static void read_ancillary(fwd_socket *it, struct msghdr *message) {
    it->size = it->length;
    it->its_flow_info = it->lost = 0;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one != NULL; one = CMSG_NXTHDR(message, one)) {
        const uint8_t *data = CMSG_DATA(one);
        const size_t octets = one->cmsg_len - CMSG_LEN(0);
        int32_t word = 0;
        if (octets >= sizeof word)
            memcpy(&word, data, sizeof word);
        if (one->cmsg_level == IPPROTO_UDP && one->cmsg_type == UDP_GRO)
            it->size = word;
        else if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == OVERFLOW)
            it->lost = (uint32_t)word;
        else if (one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == FLOW_INFO && octets >= sizeof word)
            it->its_flow_info = get32(data);
        else if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_TOS && octets)
            it->its_flow_info = (uint32_t)data[0] << TRAFFIC_CLASS_SHIFT;
    }
}

/* Keep what was received last in its slots; 0: it is not as usual. */
static int keep(fwd_socket *it) {
    if (it->length < ESP_MIN || it->size < 1 || (it->size != it->slot_octets && it->size < it->length) ||
        (it->size != it->slot_octets && it->length > it->slot_octets))
        return 0;
    if (it->its_flow_info != it->flow_info || it->its_name_octets != it->name_octets ||
        memcmp(it->its_name, it->name, (size_t)it->name_octets) != 0)
        return 0;
    const int64_t full = it->length / it->slot_octets, tail = it->length % it->slot_octets;
    if ((tail && tail < ESP_MIN) || it->used + full + 1 > it->slots ||
        it->shorter_count == (int64_t)(sizeof it->shorter / sizeof *it->shorter / 2))
        return 0;
    it->used += full;
    it->taken += full + (tail > 0);
    it->octets += it->length;
    if (tail) {
        it->shorter[2 * it->shorter_count] = (int32_t)it->used;
        it->shorter[2 * it->shorter_count++ + 1] = (int32_t)tail;
        it->used++;
    }
    return 1;
}

/* Receive until nothing waits (FWD_ALL), the batch is as large as it may be (FWD_FULL), or something is not as usual
 * (FWD_OTHER): that lies behind the slots that are used, and is not counted. Below -FWD_ERRORS: -FWD_ERRORS less the error's
 * number. */
int64_t fwd_receive(fwd_socket *it) {
    if (it == NULL || it->buffer == NULL || it->taken_word == NULL || it->slot_octets < ESP_MIN ||
        it->slot_octets > COUNT_MAX || it->slots < 1 || it->slots > COUNT_MAX || it->used < 0 || it->used > it->slots ||
        it->used * it->slot_octets >= it->buffer_octets || it->used_max >= it->slots || it->name_octets < 0 ||
        it->name_octets > (int32_t)sizeof it->name)
        return FWD_BAD_ARGUMENT;
    it->shorter_count = it->lost = 0;
    for (;;) {
        uint8_t ancillary[ANCILLARY_OCTETS] __attribute__((aligned(8)));
        struct iovec space = {it->buffer + it->used * it->slot_octets,
                              (size_t)(it->buffer_octets - it->used * it->slot_octets)};
        struct msghdr message = {it->its_name, sizeof it->its_name, &space, 1, ancillary, sizeof ancillary, 0};
        ssize_t length;
        do
            length = recvmsg(it->fd, &message, MSG_DONTWAIT);
        while (length < 0 && errno == EINTR);
        if (length < 0)
            return errno == EAGAIN ? FWD_ALL : -FWD_ERRORS - errno;
        it->length = length;
        it->its_name_octets = (int32_t)message.msg_namelen;
        read_ancillary(it, &message);
        if (!keep(it))
            return FWD_OTHER;

        /* From here on they die with this incarnation. */
        __atomic_store_n(it->taken_word, it->taken_before + (uint64_t)it->taken, __ATOMIC_RELEASE);
        if (it->used > it->used_max || it->taken >= it->count_max || it->octets >= it->octets_max)
            return FWD_FULL;
    }
}
