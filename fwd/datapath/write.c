/* Carries out what a stage wants written to the TUN device (proto/plan.h): one writev for each record or super-packet. */

#include <errno.h>

#include "plan.h"

void plan_carry_out(fwd_plan *plan, fwd_way *way) {
    for (int32_t i = 0; i < plan->writes; i++) {
        ssize_t done;
        do
            done = writev(way->fd, plan->part + plan->write[i].part, plan->write[i].parts);
        while (done < 0 && errno == EINTR);
        if (done < 0) {
            way->refused += plan->write[i].count;
        } else {
            way->written += plan->write[i].count;
            way->octets += plan->write[i].octets;
        }
    }
    plan->writes = plan->parts = plan->heads = plan->scratch_used = 0;
}
