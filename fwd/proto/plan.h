/* What a stage wants written to the TUN device: writes of some parts each, in order. */

#ifndef FWD_PLAN_H
#define FWD_PLAN_H

#include <stdint.h>
#include <sys/uio.h>

#include "octets.h"
#include "stages.h"

#define WRITES_MAX 512
#define PARTS_MAX 2048
#define WRITE_PARTS_MAX 1024 /* of one write: UIO_MAXIOV */
#define HEAD_MAX 96          /* octets of a super-packet's headers, virtio header included */
#define SCRATCH_OCTETS 65536
#define FLOWS 256 /* slots for datagrams that wait for others of their flow: a power of two */
#define TUN_CSUM 0x01 /* TUN_F_* */
#define TUN_TSO4 0x02
#define TUN_TSO6 0x04
#define TUN_USO4 0x20
#define TUN_USO6 0x40

/* Datagrams of one flow that one super-packet can stand for. */
struct datagrams {
    const uint8_t *record; /* the first, virtio header and all; its length is in its IP header */
    int32_t first, last;   /* in `waiting` */
    int32_t count;         /* 0: none waits */
};

struct fwd_plan {
    int32_t writes, parts, heads, scratch_used;
    int32_t open, waits;    /* flows of which datagrams wait, and how many of those there are */
    int32_t opened, waited; /* the same since the plan was last carried out */
    struct {
        int32_t part, parts, count, octets; /* as IP packets */
    } write[WRITES_MAX];
    struct iovec part[PARTS_MAX];
    uint8_t head[WRITES_MAX][HEAD_MAX];
    uint8_t scratch[SCRATCH_OCTETS];
    struct datagrams flow[FLOWS];
    int32_t order[WRITES_MAX]; /* slots of `flow` in which datagrams came to wait */
    struct {
        const uint8_t *record;
        int32_t next;
    } waiting[PARTS_MAX];
};

static inline int plan_has_room(const fwd_plan *plan, int64_t parts) {
    return plan->writes + plan->open < WRITES_MAX && plan->parts + plan->waits + 2 * plan->open + parts <= PARTS_MAX;
}

/* Begin a write that stands for `count` packets; its parts follow. There must be room. */
static inline void plan_write(fwd_plan *plan, int64_t count, int64_t octets) {
    plan->write[plan->writes].part = plan->parts;
    plan->write[plan->writes].parts = 0;
    plan->write[plan->writes].count = (int32_t)count;
    plan->write[plan->writes++].octets = (int32_t)octets;
}

static inline void plan_part(fwd_plan *plan, const uint8_t *at, int64_t octets) {
    plan->part[plan->parts].iov_base = (void *)at; /* it is only read */
    plan->part[plan->parts++].iov_len = (size_t)octets;
    plan->write[plan->writes - 1].parts++;
}

/* Headers of a super-packet, which are written to the pointer that comes back. There is one for each write. */
static inline uint8_t *plan_head(fwd_plan *plan) {
    return plan->head[plan->heads++];
}

/* Carry a plan out, and count in `way` (datapath/write.c). */
void plan_carry_out(fwd_plan *plan, fwd_way *way);

/* Plan the records of rows (records.c), and carry that out, or forget it. */
int64_t fwd_plan_records(fwd_way *way, int64_t first, int64_t at, int64_t have);
void fwd_forget_plan(fwd_way *way);

/* Whether the addresses of an IP packet are known to be allowed; else `way` tells them. */
int is_allowed(fwd_way *way, const uint8_t *ip);

#endif
