"""`fwd demux`: a gateway's supervisor from its first look at the configuration to its exit status."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import resource
import sys
from pathlib import Path

from fwd.datapath import memory
from fwd.model.config import Config, load, with_members, without_offload
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import logs, privileges
from fwd.supervise.hindrances import is_short_of_descriptors
from fwd.supervise.loglines import Form
from fwd.supervise.supervisor import Supervisor

log = logging.getLogger(__name__)


def run(
    config_path: Path,
    members: int | None = None,
    no_offload: bool = False,
    save_keys: Path | None = None,
    log_format: Form = "text",
) -> int:
    """`fwd demux`: run a gateway until it is told to stop; returns the exit status. Raises UserError."""

    def amend(config: Config) -> Config:
        if members is not None:
            config = with_members(config, members)
        return without_offload(config) if no_offload else config

    def read() -> Config:
        return amend(load(config_path))

    config = read()
    memory.check_machine()
    if os.geteuid() != 0:
        raise UserError("fwd demux needs root: it opens TUN devices, sets routes and nftables rules")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    multiprocessing.set_start_method("fork", force=True)
    privileges.set_title("supervisor")
    multiprocessing.current_process().name = "supervisor"  # in the log
    faulthandler.enable()
    logs.set_up(config.gateway.log_level, log_format)
    try:
        status = Supervisor(config, read, save_keys, config_path, amend).run()
    except Exception as error:
        short = is_short_of_descriptors(error)
        if isinstance(error, UserError) and not short:
            logs.tear_down()
            raise
        if not short:
            log.exception("the supervisor ends; the leak guards stand", extra=event("supervisor.failed"))
            logs.tear_down()
            os._exit(os.EX_SOFTWARE)  # whatever else is amiss: children die with their parent
        logs.tear_down()
        sys.unraisablehook = lambda _: None  # what was half made for want of them goes without a word
        raise UserError(
            f"out of file descriptors, of which the limit allows {most}: raise it (ulimit -n, systemd's LimitNOFILE=)"
        ) from None
    if not logs.tear_down():
        os._exit(status)  # the log's reader has stopped, and would be waited for
    return status
