/* AES-GCM of the core, by one of two libraries; nothing of the cipher is fwd's own.
 *
 *   OpenSSL    by EVP; it is always there
 *   ipsec-mb   Intel's multi-buffer library (libIPSec_MB), on x86-64, if its header was there when this was compiled and the
 *              library is when it runs: a call a packet without EVP's toll, and AES by AVX-512 where OpenSSL 3.0 has none
 *
 * ipsec-mb is looked for once, by dlopen, before fwd forks: children may open no file. Its structures are the header's, so
 * a library of any other version than the header's is left alone; so is one whose own self-test fails, or that would do
 * AES without the CPU's help, by tables. Which library is used is for who calls to say (core.py), when it has passed a test.
 *
 * Of the manager that ipsec-mb makes, functions are taken and nothing is kept: they write to what they are given alone, so
 * processes that were forked share nothing.
 */

#include "gcm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/opensslv.h>
#include <openssl/provider.h>

#include "core.h"

#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "OpenSSL 3.0 or newer is needed"
#endif

#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<intel-ipsec-mb.h>)
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#if IMB_VERSION_NUM >= 0x10300 && IMB_VERSION_NUM < 0x20000 /* 1.3 is the first that tests itself */
#define HAS_IPSEC_MB
#define IPSEC_MB_FILE "libIPSec_MB.so.1"
#elif IMB_VERSION_NUM >= 0x20000 && IMB_VERSION_NUM < 0x30000
#define HAS_IPSEC_MB
#define IPSEC_MB_FILE "libIPSec_MB.so.2"
#endif
#endif
#endif

#define ALIGNMENT 64 /* of ipsec-mb's keys */

struct fwd_gcm {
#ifdef HAS_IPSEC_MB
    _Alignas(ALIGNMENT) struct gcm_key_data key;
    struct gcm_context_data state;
    aes_gcm_enc_dec_t work; /* NULL: OpenSSL's context is used */
#endif
    _Alignas(ALIGNMENT) EVP_CIPHER_CTX *context;
};

/* -- OpenSSL --------------------------------------------------------------------------------------------------- */

static EVP_CIPHER *aes_128_gcm, *aes_256_gcm; /* NULL: OpenSSL has none */
static char openssl_name[48];
static CRYPTO_ONCE fetched = CRYPTO_ONCE_STATIC_INIT;

/* Fetch AES-GCM of OpenSSL's default provider, in a library context of the core's own: openssl.cnf may put another in its
 * place, or a device that members may not open, or nothing. */
static void fetch(void) {
    snprintf(openssl_name, sizeof openssl_name, "OpenSSL %s", OpenSSL_version(OPENSSL_VERSION_STRING));
    OSSL_LIB_CTX *library = OSSL_LIB_CTX_new();
    if (library == NULL || OSSL_PROVIDER_load(library, "default") == NULL)
        return;
    aes_128_gcm = EVP_CIPHER_fetch(library, "AES-128-GCM", NULL);
    aes_256_gcm = EVP_CIPHER_fetch(library, "AES-256-GCM", NULL);
}

static int openssl_start(fwd_gcm *gcm, const uint8_t *key, int64_t key_octets, int seals) {
    const EVP_CIPHER *cipher = key_octets == 32 ? aes_256_gcm : aes_128_gcm;
    gcm->context = EVP_CIPHER_CTX_new();
    return cipher != NULL && gcm->context != NULL &&
           EVP_CipherInit_ex(gcm->context, cipher, NULL, key, NULL, seals) == 1;
}

static int openssl_seal(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *aad, int aad_octets,
                        const uint8_t *row, int octets, uint8_t *out) {
    int done = 0, rest = 0;
    return EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
           EVP_EncryptUpdate(context, NULL, &done, aad, aad_octets) == 1 &&
           EVP_EncryptUpdate(context, out, &done, row, octets) == 1 && done == octets &&
           EVP_EncryptFinal_ex(context, out + octets, &rest) == 1 && rest == 0 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, ICV_OCTETS, out + octets) == 1;
}

static int openssl_open(EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *aad, int aad_octets,
                        const uint8_t *sealed, int octets, uint8_t *row) {
    uint8_t icv[ICV_OCTETS];
    int done = 0, rest = 0;
    memcpy(icv, sealed + octets, ICV_OCTETS);
    return EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, ICV_OCTETS, icv) == 1 &&
           EVP_DecryptUpdate(context, NULL, &done, aad, aad_octets) == 1 &&
           EVP_DecryptUpdate(context, row, &done, sealed, octets) == 1 && done == octets &&
           EVP_DecryptFinal_ex(context, row + octets, &rest) == 1 && rest == 0;
}

/* -- ipsec-mb -------------------------------------------------------------------------------------------------- */

#ifdef HAS_IPSEC_MB

/* Functions of the library for one kind of CPU: for keys of 16 octets, and of 32. */
static struct form {
    aes_gcm_pre_t expand[2];
    aes_gcm_enc_dec_t seal[2], open[2];
    char name[48]; /* empty: there is none */
} forms[FWD_IPSEC_MB_AVX512 + 1];
static CRYPTO_ONCE loaded = CRYPTO_ONCE_STATIC_INIT;

static const char *arch_name(IMB_ARCH arch) {
    switch (arch) {
    case IMB_ARCH_SSE:
        return " (SSE)";
    case IMB_ARCH_AVX2:
        return " (AVX2)";
    case IMB_ARCH_AVX512:
        return " (AVX-512)";
    default:
        return "";
    }
}

/* Take a form's functions of a manager, if that is of use and is as it was asked for. */
static void take(struct form *form, const IMB_MGR *manager, int error) {
    if (error != 0 || !(manager->features & IMB_FEATURE_SELF_TEST_PASS) || manager->used_arch < IMB_ARCH_SSE)
        return;
    form->expand[0] = manager->gcm128_pre;
    form->expand[1] = manager->gcm256_pre;
    form->seal[0] = manager->gcm128_enc;
    form->seal[1] = manager->gcm256_enc;
    form->open[0] = manager->gcm128_dec;
    form->open[1] = manager->gcm256_dec;
    snprintf(form->name, sizeof form->name, "ipsec-mb %s%s", IMB_VERSION_STR, arch_name(manager->used_arch));
}

#define FUNCTION(library, name) ((__typeof__(&name))dlsym(library, #name))

/* Look for the library, of the header's version, and take its forms: what it would use by itself, and others for tests. */
static void load(void) {
    void *library = dlopen(IPSEC_MB_FILE, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return;
    __typeof__(&imb_get_version) version = FUNCTION(library, imb_get_version);
    if (version == NULL || version() != IMB_VERSION_NUM)
        return;

    __typeof__(&alloc_mb_mgr) allocate = FUNCTION(library, alloc_mb_mgr);
    __typeof__(&free_mb_mgr) let_go = FUNCTION(library, free_mb_mgr);
    __typeof__(&imb_get_errno) error_of = FUNCTION(library, imb_get_errno);
    __typeof__(&init_mb_mgr_auto) choose = FUNCTION(library, init_mb_mgr_auto);
    const init_mb_mgr_t certain[] = {
        [FWD_IPSEC_MB_SSE] = FUNCTION(library, init_mb_mgr_sse),
        [FWD_IPSEC_MB_AVX2] = FUNCTION(library, init_mb_mgr_avx2),
        [FWD_IPSEC_MB_AVX512] = FUNCTION(library, init_mb_mgr_avx512),
    };
    if (allocate == NULL || let_go == NULL || error_of == NULL || choose == NULL)
        return;

    for (int which = FWD_IPSEC_MB; which <= FWD_IPSEC_MB_AVX512; which++) {
        IMB_MGR *manager = allocate(0);
        if (manager == NULL)
            return;
        if (which == FWD_IPSEC_MB)
            choose(manager, NULL);
        else if (certain[which] != NULL)
            certain[which](manager);
        take(&forms[which], manager, error_of(manager));
        let_go(manager);
    }
}

static int ipsec_mb_start(fwd_gcm *gcm, int library, const uint8_t *key, int64_t key_octets, int seals) {
    const struct form *form = &forms[library];
    const int of = key_octets == 32;
    if (form->name[0] == '\0')
        return 0;
    form->expand[of](key, &gcm->key);
    gcm->work = seals ? form->seal[of] : form->open[of];
    return 1;
}

/* The library opens by making the ICV that should be there; whether it is, is compared in constant time. */
static int ipsec_mb_open(fwd_gcm *gcm, const uint8_t *nonce, const uint8_t *aad, int aad_octets, const uint8_t *sealed,
                         int octets, uint8_t *row) {
    const uint8_t *icv = sealed + octets;
    uint8_t made[ICV_OCTETS];
    for (int i = 0; i < ICV_OCTETS; i++)
        made[i] = (uint8_t)~icv[i]; /* were it not made after all, it would be wrong */
    gcm->work(&gcm->key, &gcm->state, row, sealed, (uint64_t)octets, nonce, aad, (uint64_t)aad_octets, made, ICV_OCTETS);
    return CRYPTO_memcmp(made, icv, ICV_OCTETS) == 0;
}

#endif

/* -- both ------------------------------------------------------------------------------------------------------- */

/* Look once for what there is. */
static int is_looked_for(void) {
#ifdef HAS_IPSEC_MB
    if (CRYPTO_THREAD_run_once(&loaded, load) != 1)
        return 0;
#endif
    return CRYPTO_THREAD_run_once(&fetched, fetch) == 1;
}

const char *fwd_library_name(int library) {
    if (!is_looked_for())
        return NULL;
    if (library == FWD_OPENSSL)
        return openssl_name;
#ifdef HAS_IPSEC_MB
    if (library >= FWD_IPSEC_MB && library <= FWD_IPSEC_MB_AVX512 && forms[library].name[0] != '\0')
        return forms[library].name;
#endif
    return NULL;
}

fwd_gcm *fwd_gcm_new(int library, const uint8_t *key, int64_t key_octets, int seals) {
    if ((key_octets != 16 && key_octets != 32) || fwd_library_name(library) == NULL)
        return NULL;
    fwd_gcm *gcm = aligned_alloc(ALIGNMENT, sizeof *gcm);
    if (gcm == NULL)
        return NULL;
    memset(gcm, 0, sizeof *gcm);
    int started = 0;
    if (library == FWD_OPENSSL)
        started = openssl_start(gcm, key, key_octets, seals);
#ifdef HAS_IPSEC_MB
    else
        started = ipsec_mb_start(gcm, library, key, key_octets, seals);
#endif
    if (started)
        return gcm;
    fwd_gcm_free(gcm);
    return NULL;
}

/* OpenSSL's context cleanses its key schedule itself. */
void fwd_gcm_free(fwd_gcm *gcm) {
    if (gcm == NULL)
        return;
    EVP_CIPHER_CTX_free(gcm->context);
    OPENSSL_cleanse(gcm, sizeof *gcm);
    free(gcm);
}

int fwd_gcm_seal(fwd_gcm *gcm, const uint8_t *nonce, const uint8_t *aad, int aad_octets, const uint8_t *row, int octets,
                 uint8_t *out) {
#ifdef HAS_IPSEC_MB
    if (gcm->work != NULL) {
        gcm->work(&gcm->key, &gcm->state, out, row, (uint64_t)octets, nonce, aad, (uint64_t)aad_octets, out + octets,
                  ICV_OCTETS);
        return 1;
    }
#endif
    return openssl_seal(gcm->context, nonce, aad, aad_octets, row, octets, out);
}

int fwd_gcm_open(fwd_gcm *gcm, const uint8_t *nonce, const uint8_t *aad, int aad_octets, const uint8_t *sealed, int octets,
                 uint8_t *row) {
    int authentic;
#ifdef HAS_IPSEC_MB
    if (gcm->work != NULL)
        authentic = ipsec_mb_open(gcm, nonce, aad, aad_octets, sealed, octets, row);
    else
#endif
        authentic = openssl_open(gcm->context, nonce, aad, aad_octets, sealed, octets, row);
    if (!authentic)
        OPENSSL_cleanse(row, (size_t)octets);
    return authentic;
}
