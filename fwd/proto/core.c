/* The stages of a burst that touch every octet, compiled: what burst.py and esp.py say in Python, with the same result.
 *
 *   fwd_seal           rows of a segment -> ESP packets
 *   fwd_seal_records   the same for rows with records, whose framing and trailers are written first
 *   fwd_seal_packets   the same for rows with an IP packet each
 *   fwd_open           ESP packets -> opened rows, if their numbers only rise, above the window
 *   fwd_open_one       one packet, whose number is decided already
 *
 * All of AES-GCM is a library's, by gcm.c. A key is expanded once for each SA; a packet sets its nonce alone. Nothing is
 * allocated for a burst, and nothing is kept but the expanded key.
 *
 * Who calls has bounds of its own, and none is believed: whatever the numbers, no octet outside of the buffers is
 * touched. A bad argument is FWD_BAD_ARGUMENT, before any packet is sealed or opened. A row whose packet does not
 * authenticate is wiped: nobody sees what it would have been.
 */

#include <stdint.h>
#include <string.h>

#include <openssl/crypto.h>

#include "core.h"
#include "gcm.h"

#define HEADER_OCTETS 16 /* SPI, sequence number, IV */
#define OVERHEAD_OCTETS (HEADER_OCTETS + ICV_OCTETS)
#define TRAILER_OCTETS 2 /* pad length, next header */
#define FRAMING_OCTETS 4 /* of AGGFRAG: sub-type, zero, BlockOffset */
#define SUBTYPE_RECORDS 0xD0
#define NEXT_AGGFRAG 144
#define SALT_OCTETS 4
#define ROW_MAX 65535          /* octets of a row: no datagram is longer */
#define COUNT_MAX (1 << 20)    /* of rows, and the octets between two of them: products of two fit 64 bits by far */
#define BUFFER_MAX (1LL << 40) /* octets of a buffer */

struct fwd_sa {
    fwd_gcm *gcm;
    uint32_t spi;
    int esn;
    int sends;
    uint8_t salt[SALT_OCTETS];
};

static void put32(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

static void put64(uint8_t *at, uint64_t value) {
    put32(at, (uint32_t)(value >> 32));
    put32(at + 4, (uint32_t)value);
}

static uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Whether `count` parts of `octets`, `stride` apart from part `first` on, lie within `size` octets. */
static int lies_within(int64_t size, int64_t stride, int64_t first, int64_t count, int64_t octets) {
    if (size < 0 || size > BUFFER_MAX || first < 0 || first > COUNT_MAX || count < 0 || count > COUNT_MAX)
        return 0;
    if (stride < 1 || stride > COUNT_MAX || octets < 0 || octets > stride)
        return 0;
    return count == 0 || (first + count - 1) * stride + octets <= size;
}

/* -- an SA ------------------------------------------------------------------------------------------------------ */

/* Returns NULL for a key of another size, where the library is not there, and where there is no memory. */
fwd_sa *fwd_sa_new(int library, const uint8_t *key, int64_t key_octets, const uint8_t *salt, int64_t salt_octets,
                   uint32_t spi, int esn, int sends) {
    if (key == NULL || salt == NULL || salt_octets != SALT_OCTETS)
        return NULL;
    fwd_sa *sa = OPENSSL_zalloc(sizeof *sa);
    if (sa == NULL)
        return NULL;
    sa->spi = spi;
    sa->esn = esn != 0;
    sa->sends = sends != 0;
    memcpy(sa->salt, salt, SALT_OCTETS);
    sa->gcm = fwd_gcm_new(library, key, key_octets, sa->sends);
    if (sa->gcm == NULL) {
        fwd_sa_free(sa);
        return NULL;
    }
    return sa;
}

void fwd_sa_free(fwd_sa *sa) {
    if (sa == NULL)
        return;
    fwd_gcm_free(sa->gcm);
    OPENSSL_clear_free(sa, sizeof *sa);
}

/* AAD: SPI, high half, low half with ESN; SPI, low half without (RFC 4106 §5). */
static int aad_of(const fwd_sa *sa, uint64_t number, uint8_t aad[AAD_MAX]) {
    put32(aad, sa->spi);
    if (!sa->esn) {
        put32(aad + 4, (uint32_t)number);
        return 8;
    }
    put64(aad + 4, number);
    return 12;
}

/* -- rows -> packets -------------------------------------------------------------------------------------------- */

/* Seal one row as the packet at `out`. */
static int seal_row(fwd_sa *sa, uint64_t number, const uint8_t *row, int octets, uint8_t *out) {
    uint8_t nonce[NONCE_OCTETS], aad[AAD_MAX];

    put32(out, sa->spi);
    put32(out + 4, (uint32_t)number);
    put64(out + 8, number);
    memcpy(nonce, sa->salt, SALT_OCTETS);
    memcpy(nonce + SALT_OCTETS, out + 8, 8);
    return fwd_gcm_seal(sa->gcm, nonce, aad, aad_of(sa, number, aad), row, octets, out + HEADER_OCTETS);
}

/* Seal `full` rows of `row_octets`, from row `first` on, and `tail_octets` of the row behind them if any, to `out` from
 * octet `at` on. Numbers go from `number` on. Returns where the last packet ends. */
int64_t fwd_seal(fwd_sa *sa, uint64_t number, const uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t first,
                 int64_t full, int64_t row_octets, int64_t tail_octets, uint8_t *out, int64_t out_octets, int64_t at) {
    if (sa == NULL || !sa->sends || rows == NULL || out == NULL || row_octets > ROW_MAX || tail_octets > ROW_MAX)
        return FWD_BAD_ARGUMENT;
    if (!lies_within(rows_octets, stride, first, full, row_octets) || first + full > COUNT_MAX ||
        !lies_within(rows_octets, stride, first + full, tail_octets != 0, tail_octets))
        return FWD_BAD_ARGUMENT;
    const int64_t full_octets = full * (row_octets + OVERHEAD_OCTETS);
    const int64_t end = full_octets + (tail_octets ? tail_octets + OVERHEAD_OCTETS : 0);
    if (out_octets < 0 || out_octets > BUFFER_MAX || at < 0 || at > out_octets || end > out_octets - at)
        return FWD_BAD_ARGUMENT;

    /* One number is one packet: none may wrap. */
    const int64_t count = full + (tail_octets != 0);
    const uint64_t last = sa->esn ? UINT64_MAX : UINT32_MAX;
    if (number > last || (count && (uint64_t)(count - 1) > last - number))
        return FWD_BAD_ARGUMENT;

    const uint8_t *row = rows + first * stride;
    out += at;
    for (int64_t i = 0; i < full; i++, row += stride, out += row_octets + OVERHEAD_OCTETS)
        if (!seal_row(sa, number++, row, (int)row_octets, out))
            return FWD_CIPHER_FAILED;
    if (tail_octets && !seal_row(sa, number, row, (int)tail_octets, out))
        return FWD_CIPHER_FAILED;
    return at + end;
}

/* Octets of a row with so many before its padding. */
static int64_t padded(int64_t octets) {
    return (octets + TRAILER_OCTETS + 3) & ~(int64_t)3;
}

/* Write padding and trailer behind the first `octets` of a row, up to `end` octets of it (RFC 4303 §2.4). */
static void put_trailer(uint8_t *row, int64_t octets, int64_t end, int next_header) {
    const int64_t pad = end - octets - TRAILER_OCTETS;
    for (int64_t i = 0; i < pad; i++)
        row[octets + i] = (uint8_t)(i + 1);
    row[end - 2] = (uint8_t)pad;
    row[end - 1] = (uint8_t)next_header;
}

/* Seal the `fill` octets of `records` records that lie over rows from the first on, `chunk` in each: write sub-type,
 * BlockOffset and trailer of every row, and seal it to `out`. `ends` has where each record ends; another process writes
 * it, so it is believed for no index. Returns the octets of `out` filled. */
int64_t fwd_seal_records(fwd_sa *sa, uint64_t number, uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t chunk,
                         const uint32_t *ends, int64_t ends_octets, int64_t records, int64_t fill, uint8_t *out,
                         int64_t out_octets) {
    if (rows == NULL || ends == NULL || chunk < 1 || chunk > ROW_MAX - FRAMING_OCTETS - TRAILER_OCTETS || fill < 1 ||
        fill > BUFFER_MAX || records < 1 || records > ends_octets / (int64_t)sizeof *ends)
        return FWD_BAD_ARGUMENT;
    const int64_t full = fill / chunk, tail = fill % chunk, count = full + (tail > 0);
    const int64_t row_octets = FRAMING_OCTETS + chunk + TRAILER_OCTETS;
    const int64_t tail_octets = tail ? padded(FRAMING_OCTETS + tail) : 0;
    if (!lies_within(rows_octets, stride, 0, full, row_octets) ||
        !lies_within(rows_octets, stride, full, tail > 0, tail_octets))
        return FWD_BAD_ARGUMENT;

    uint8_t *row = rows;
    int64_t record = 0;
    for (int64_t i = 0; i < count; i++, row += stride) {
        uint32_t end = 0;
        const int64_t start = i * chunk;
        while (i > 0 && record < records && (end = ends[record]) < start)
            record++;
        if (record == records)
            return FWD_BAD_ARGUMENT;
        const uint32_t offset = i > 0 ? end - (uint32_t)start : 0;
        row[0] = SUBTYPE_RECORDS;
        row[1] = 0;
        row[2] = (uint8_t)(offset >> 8);
        row[3] = (uint8_t)offset;
        if (i < full)
            put_trailer(row, FRAMING_OCTETS + chunk, row_octets, NEXT_AGGFRAG);
        else
            put_trailer(row, FRAMING_OCTETS + tail, tail_octets, NEXT_AGGFRAG);
    }
    return fwd_seal(sa, number, rows, rows_octets, stride, 0, full, row_octets, tail_octets, out, out_octets, 0);
}

/* Seal `full` packets of `octets`, one in each row from row `first` on, and one of `tail_octets` behind them if any. */
int64_t fwd_seal_packets(fwd_sa *sa, uint64_t number, uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t first,
                         int64_t full, int64_t octets, int64_t tail_octets, int next_header, uint8_t *out,
                         int64_t out_octets) {
    if (rows == NULL || octets < 1 || octets > ROW_MAX - 8 || tail_octets < 0 || tail_octets > ROW_MAX - 8)
        return FWD_BAD_ARGUMENT;
    const int64_t row_octets = padded(octets), tail_row = tail_octets ? padded(tail_octets) : 0;
    if (!lies_within(rows_octets, stride, first, full, row_octets) || first + full > COUNT_MAX ||
        !lies_within(rows_octets, stride, first + full, tail_octets > 0, tail_row))
        return FWD_BAD_ARGUMENT;
    uint8_t *row = rows + first * stride;
    for (int64_t i = 0; i < full; i++, row += stride)
        put_trailer(row, octets, row_octets, next_header);
    if (tail_octets)
        put_trailer(row, tail_octets, tail_row, next_header);
    return fwd_seal(sa, number, rows, rows_octets, stride, first, full, row_octets, tail_row, out, out_octets, 0);
}

/* -- packets -> rows -------------------------------------------------------------------------------------------- */

/* Open one packet into `row`, which is as long as what it carries; 0: it does not authenticate, and the row is wiped. */
static int open_row(fwd_sa *sa, uint64_t number, const uint8_t *packet, int octets, uint8_t *row) {
    uint8_t nonce[NONCE_OCTETS], aad[AAD_MAX];

    memcpy(nonce, sa->salt, SALT_OCTETS);
    memcpy(nonce + SALT_OCTETS, packet + 8, 8); /* the IV is the sender's word, and vouched for by the ICV */
    return fwd_gcm_open(sa->gcm, nonce, aad, aad_of(sa, number, aad), packet + HEADER_OCTETS, octets, row);
}

/* The number that the 32 bits `low` of a packet stand for, if it is above `top`; 0: it is not, or there is none.
 * With ESN it is the one that is congruent to `low` and less than 2^32 above the window's lower edge (RFC 4303 A2.1). */
static uint64_t number_above(const fwd_sa *sa, uint64_t top, uint32_t window, uint32_t low) {
    if (!sa->esn)
        return low > top ? low : 0;
    const uint32_t bottom = (uint32_t)top - window + 1; /* of which only the low half matters */
    const uint32_t above = low - bottom;
    if (above < window)
        return 0;
    const uint64_t ahead = (uint64_t)above - (window - 1);
    return ahead <= UINT64_MAX - top ? top + ahead : 0;
}

/* Open `count` packets, `packet_octets` apart from packet `start` on, into as many rows, `stride` apart from row `first`
 * on. `shorter` has two words for each packet that is shorter than the others: its index among them, and its octets.
 * `numbers` becomes the number of each, and `refused` whether it does not authenticate. Returns how many those are.
 *
 * FWD_NOT_RISING: their numbers do not only rise, above `top`, which is the window's; then nothing was opened. */
int64_t fwd_open(fwd_sa *sa, uint64_t top, int64_t window, const uint8_t *packets, int64_t packets_octets,
                 int64_t packet_octets, int64_t start, int64_t count, const int32_t *shorter, int64_t shorter_count,
                 uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t first, uint64_t *numbers,
                 uint8_t *refused, int64_t count_max) {
    if (sa == NULL || sa->sends || packets == NULL || rows == NULL || numbers == NULL || refused == NULL || shorter == NULL)
        return FWD_BAD_ARGUMENT;
    if (window < 1 || window > INT32_MAX || count < 1 || count > count_max || shorter_count < 0 ||
        shorter_count > count)
        return FWD_BAD_ARGUMENT;
    if (packet_octets < OVERHEAD_OCTETS || packet_octets > ROW_MAX + OVERHEAD_OCTETS)
        return FWD_BAD_ARGUMENT;
    if (!lies_within(packets_octets, packet_octets, start, count, packet_octets) ||
        !lies_within(rows_octets, stride, first, count, packet_octets - OVERHEAD_OCTETS))
        return FWD_BAD_ARGUMENT;
    int64_t before = -1;
    for (int64_t i = 0; i < shorter_count; i++) {
        const int64_t index = shorter[2 * i], octets = shorter[2 * i + 1];
        if (index <= before || index >= count || octets < OVERHEAD_OCTETS || octets > packet_octets)
            return FWD_BAD_ARGUMENT;
        before = index;
    }

    /* Numbers. */
    const uint8_t *packet = packets + start * packet_octets;
    uint64_t last = top;
    for (int64_t i = 0; i < count; i++) {
        numbers[i] = number_above(sa, top, (uint32_t)window, get32(packet + i * packet_octets + 4));
        if (numbers[i] <= last)
            return FWD_NOT_RISING;
        last = numbers[i];
    }

    /* Packets. */
    uint8_t *row = rows + first * stride;
    int64_t failed = 0, next = 0;
    for (int64_t i = 0; i < count; i++, packet += packet_octets, row += stride) {
        int64_t octets = packet_octets;
        if (next < shorter_count && shorter[2 * next] == i)
            octets = shorter[2 * next++ + 1];
        refused[i] = !open_row(sa, numbers[i], packet, (int)(octets - OVERHEAD_OCTETS), row);
        failed += refused[i];
    }
    return failed;
}

/* Open one packet by the number that it stands for: 1, or 0 if it does not authenticate. */
int64_t fwd_open_one(fwd_sa *sa, uint64_t number, const uint8_t *packet, int64_t packet_octets, uint8_t *row,
                     int64_t row_octets) {
    if (sa == NULL || sa->sends || packet == NULL || row == NULL || packet_octets < OVERHEAD_OCTETS ||
        packet_octets > ROW_MAX + OVERHEAD_OCTETS || row_octets != packet_octets - OVERHEAD_OCTETS)
        return FWD_BAD_ARGUMENT;
    return open_row(sa, number, packet, (int)row_octets, row);
}
