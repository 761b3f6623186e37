/* Raised with each change of what a function takes or means; core.py wants the same. */
enum { FWD_STAGES_VERSION = 3 };

/* Why a stage has ended: all was taken that is whole; what is next is for Python to judge; it has a pair of addresses that
 * is not known to be allowed; its length makes no sense; the plan is full, and to be carried out first. */
enum { FWD_ALL = 0, FWD_OTHER = 1, FWD_UNKNOWN = 2, FWD_UNSOUND = 3, FWD_FULL = 4 };

typedef struct fwd_plan fwd_plan;

/* Opened rows, where they are written, and what a stage tells. */
typedef struct {
    /* Given. */
    const uint8_t *rows;
    int64_t rows_octets, stride, chunk;
    const uint8_t *pairs4, *pairs6; /* FWD_PAIRS_OCTETS each (fwd_allow) */
    fwd_plan *plan;
    int32_t fd, accepted; /* the TUN device, and its TUN_F_* flags in force */
    /* Told: where it has ended, the length of what is there, and of all before how many it has taken; of those it has
     * written how many, with how many octets as IP packets, and how many the device has refused. */
    int64_t at, length, taken, written, octets, refused;
    int32_t pair_octets;
    uint8_t pair[32]; /* of addresses, for FWD_UNKNOWN */
} fwd_way;

enum { FWD_PAIRS_OCTETS = 4096 };

fwd_plan *fwd_plan_new(void);
void fwd_plan_free(fwd_plan *plan);
int64_t fwd_allow(uint8_t *pairs, int64_t pairs_octets, const uint8_t *pair, int64_t pair_octets);

int64_t fwd_complete(uint8_t *rows, int64_t rows_octets, int64_t stride, const uint32_t *words, int64_t words_octets,
                     int64_t fill, int32_t *runs, int64_t runs_octets, int64_t *octets);

int64_t fwd_write_packets(fwd_way *way, int64_t first, int64_t count, int64_t at, int64_t octets,
                          const int32_t *shorter, int64_t shorter_count, int tos);
int64_t fwd_write_records(fwd_way *way, int64_t first, int64_t at, int64_t have);

/* A member's socket, and where its datagrams go. */
typedef struct {
    /* Given once: slots of one packet's size, one behind the other, of which `used_max` may be used before another
     * receive; how much a batch may be; the word that tells how many packets were taken from the socket. */
    uint8_t *buffer;
    int64_t buffer_octets, slot_octets, slots, used_max, count_max, octets_max;
    uint64_t *taken_word;
    int32_t fd;
    /* Of the batch: whom it is from, with which marks, what was taken before it, and what of it. */
    int32_t name_octets;
    uint8_t name[28];
    uint32_t flow_info;
    uint64_t taken_before;
    int64_t used, taken, octets;
    /* Told: slots that are not full, with their octets. */
    int64_t shorter_count;
    int32_t shorter[16];
    /* Told of what was received last and not taken: its octets, those of each datagram, its marks, its sender; and how
     * many datagrams the socket has lost so far (0: not told). */
    int64_t length, size;
    uint32_t its_flow_info, lost;
    int32_t its_name_octets;
    uint8_t its_name[28];
} fwd_socket;

enum { FWD_ERRORS = 1000 };

int64_t fwd_receive(fwd_socket *it);
