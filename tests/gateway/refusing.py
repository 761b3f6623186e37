"""`fwd` whose keyd refuses a peering whatever would prolong it: `refusing.py FLAG PEERING ARGUMENT…`, as of `fwd`.

From when the first octet of the file FLAG is not zero, it refuses each CREATE_CHILD_SA and each IKE_AUTH of PEERING,
and asks for nothing itself. What is agreed stays.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any

from fwd import cli
from fwd.proto.ike import auth
from fwd.proto.ike.causes import Failure
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.numbers import Exchange, Notify, ProtocolError
from fwd.proto.ike.sa import IkeSa


def main() -> None:
    flag, refused = sys.argv[1:3]
    del sys.argv[1:3]
    fd = os.open(flag, os.O_RDONLY)
    word = mmap.mmap(fd, 1, prot=mmap.PROT_READ)  # keyd may look at no file
    respond = Endpoint._respond

    def refuses(name: str) -> bool:
        return name == refused and word[0] != 0

    def answer(self: Endpoint, sa: IkeSa, exchange: int, *rest: Any) -> Any:
        if refuses(sa.connection.name) and exchange == Exchange.CREATE_CHILD_SA:
            raise ProtocolError(Notify.NO_ADDITIONAL_SAS, "there are enough")
        if refuses(sa.connection.name) and exchange == Exchange.IKE_AUTH:
            raise auth.failed("once is enough", Failure.OTHER)
        return respond(self, sa, exchange, *rest)

    def unless_refusing(ask: Any) -> Any:
        return lambda self, name, *rest, **more: None if refuses(name) else ask(self, name, *rest, **more)

    Endpoint._respond = answer  # type: ignore[assignment,method-assign]
    for name in ("create_child", "rekey_child", "rekey_ike", "initiate", "reauthenticate"):
        setattr(Endpoint, name, unless_refusing(getattr(Endpoint, name)))
    cli.main()


if __name__ == "__main__":
    main()
