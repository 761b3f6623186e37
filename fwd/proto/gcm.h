/* AES-GCM for ESP: a key, 12 octets of nonce, and an ICV of 16 octets behind what is sealed. gcm.c says who does it. */

#ifndef FWD_GCM_H
#define FWD_GCM_H

#include <stdint.h>

#define NONCE_OCTETS 12
#define AAD_MAX 12
#define ICV_OCTETS 16

typedef struct fwd_gcm fwd_gcm;

/* Expand a key, to seal or to open by a library of core.h's. NULL: it has no AES-GCM for so many octets, or is not there,
 * or there is no memory. */
fwd_gcm *fwd_gcm_new(int library, const uint8_t *key, int64_t key_octets, int seals);
void fwd_gcm_free(fwd_gcm *gcm);

/* Seal `octets` to as many at `out`, and the ICV behind them; 0: that failed. */
int fwd_gcm_seal(fwd_gcm *gcm, const uint8_t *nonce, const uint8_t *aad, int aad_octets, const uint8_t *row, int octets,
                 uint8_t *out);

/* Open `octets`, which their ICV follows, to `row`; 0: they are not authentic, and `row` is wiped. */
int fwd_gcm_open(fwd_gcm *gcm, const uint8_t *nonce, const uint8_t *aad, int aad_octets, const uint8_t *sealed, int octets,
                 uint8_t *row);

#endif
