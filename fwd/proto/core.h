typedef struct fwd_sa fwd_sa;

/* Raised with each change of what a function takes or means; core.py wants the same. */
enum { FWD_CORE_VERSION = 3 };
enum { FWD_BAD_ARGUMENT = -1, FWD_NOT_RISING = -2, FWD_CIPHER_FAILED = -3 };

/* Libraries that do AES-GCM (gcm.c). The last three are ipsec-mb as it is on certain CPUs, for tests. */
enum {
    FWD_OPENSSL = 0, FWD_IPSEC_MB = 1, FWD_IPSEC_MB_SSE = 2, FWD_IPSEC_MB_AVX2 = 3, FWD_IPSEC_MB_AVX512 = 4
};
/* Its name and version; NULL: it is not there, or of no use here. */
const char *fwd_library_name(int library);

fwd_sa *fwd_sa_new(int library, const uint8_t *key, int64_t key_octets, const uint8_t *salt, int64_t salt_octets,
                   uint32_t spi, int esn, int sends);
void fwd_sa_free(fwd_sa *sa);

int64_t fwd_seal(fwd_sa *sa, uint64_t number,
                 const uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t first,
                 int64_t full, int64_t row_octets, int64_t tail_octets,
                 uint8_t *out, int64_t out_octets, int64_t at);

int64_t fwd_seal_records(fwd_sa *sa, uint64_t number,
                         uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t chunk,
                         const uint32_t *ends, int64_t ends_octets, int64_t records, int64_t fill,
                         uint8_t *out, int64_t out_octets);

int64_t fwd_seal_packets(fwd_sa *sa, uint64_t number,
                         uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t first,
                         int64_t full, int64_t octets, int64_t tail_octets, int next_header,
                         uint8_t *out, int64_t out_octets);

int64_t fwd_open(fwd_sa *sa, uint64_t top, int64_t window,
                 const uint8_t *packets, int64_t packets_octets, int64_t packet_octets, int64_t start, int64_t count,
                 const int32_t *shorter, int64_t shorter_count,
                 uint8_t *rows, int64_t rows_octets, int64_t stride, int64_t first,
                 uint64_t *numbers, uint8_t *refused, int64_t count_max);

int64_t fwd_open_one(fwd_sa *sa, uint64_t number,
                     const uint8_t *packet, int64_t packet_octets, uint8_t *row, int64_t row_octets);
