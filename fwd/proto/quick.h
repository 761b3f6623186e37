/* Why the quick loop (quick.c) has ended: it is to be called again; nothing has come until it was due; descriptors are
 * ready; a datagram was received that is for Python to take; what was sealed last did not go, or was not sealed at all. */
enum { FWD_TURN = 0, FWD_DUE = 1, FWD_READY = 2, FWD_DATAGRAM = 3, FWD_UNSENT = 4, FWD_UNSEALED = 5 };

enum { FWD_RING_SEGMENTS = 12, FWD_NAME_OCTETS = 28, FWD_ANCILLARY_OCTETS = 128 };

/* What one member's quick loop works on. Words that other processes read or write are in shared memory. */
typedef struct {
    /* The loop: descriptors; when an SA's life ends first, on the boot clock; `left` as the far member was told. */
    int32_t epoll, data, control, tells_sent;
    uint64_t deadline_ms, left;
    uint64_t *heartbeat, *demux_words, *member_words, *rx_taken;

    /* Counters in private, and their block; where each one is. */
    uint64_t *counters, *block;
    int64_t n_counters;
    int32_t out_records, out_bytes, out_esp, out_esp_bytes, done, buckets_moved;
    int32_t in_esp, in_esp_bytes, in_esp_ok, in_records, in_records_ok, in_bytes, tun_refused, socket_overflow;

    /* The way out: segments of the ring, and the SA that is sent on (NULL: nothing is sealed). `number` is claimed last. */
    fwd_sa *seals;
    uint64_t number, number_max;
    uint64_t *ledger;
    uint32_t *fields;
    uint8_t *rows[FWD_RING_SEGMENTS];
    uint32_t *ends[FWD_RING_SEGMENTS];
    int64_t rows_octets, ends_octets, stride;
    uint8_t *out;
    int64_t out_octets, send_octets_max;
    int32_t tos, offload;
    int32_t peer_octets;
    uint8_t peer[FWD_NAME_OCTETS];
    /* Told: the segment sealed last, how far it was sent, and whether any was. */
    uint64_t segment;
    int64_t at, end, packet_octets, packets, was_sent;
    int64_t sent_before_ns, sent_ns; /* when first, before and after something was heard last; 0: not */

    /* The way in: the SA that is listened to (NULL: none), where its number is published, and where it goes. */
    fwd_sa *opens;
    uint32_t spi;
    int32_t esn;
    uint64_t top, next; /* of the window; the number that is in order */
    int64_t window;
    uint64_t *slot_top, *slot_octets;
    uint64_t octets;
    fwd_way *way;
    uint8_t *opened; /* the first row of `way` */
    uint8_t *space;
    int64_t space_octets, packet_octets_max;
    int64_t read_ns, empty_ns, unread_ns; /* Unread: when it was read last, and was read last to its end; how long is late */
    uint64_t first_number;
    int64_t taken, heard_ns;               /* told: the run of numbers taken; when something was heard last, or 0 */
    uint64_t empty_esp, empty_bytes;       /* told: what had been received when it was read to its end */
    int32_t was_empty, name_octets;
    uint8_t name[FWD_NAME_OCTETS]; /* of whom it is heard from */
    uint32_t flow_info;

    /* Told of a datagram for Python, or of several that were merged. */
    int64_t length, size;
    uint32_t came_flow_info, came_lost;
    int32_t came_name_octets;
    uint8_t came_name[FWD_NAME_OCTETS];
    int32_t ready; /* bits: 1 data, 2 control */
} fwd_quick;

int64_t fwd_quick_wait(fwd_quick *quick, int64_t until_ns);
