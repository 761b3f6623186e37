"""The stages of a burst's way, and which of them a sampled stack is in.

A stack belongs to the innermost frame that is the data path's own. What its source line calls tells the system calls,
its function and file tell the rest; so a line may move, and only names are known here. Samples in poll() are no work:
the process sleeps there, or has been woken and waits for a core. They are told apart, and no stage's share has them.
"""

from __future__ import annotations

import linecache
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import fwd

Direction = Literal["out", "in", "both"]


@dataclass(frozen=True, order=True)
class Stage:
    """One stage, where its time passes, and in which direction it works."""

    name: str
    where: Literal["user", "kernel"]
    direction: Direction


TUN_READ: Final = Stage("read", "kernel", "out")
CHECK_OUT: Final = Stage("check and hash", "user", "out")
COPY: Final = Stage("ring copy", "user", "out")
FLUSH: Final = Stage("hand over", "user", "out")
BELL: Final = Stage("bell", "kernel", "out")
FRAMING: Final = Stage("framing", "user", "out")
SEAL: Final = Stage("seal", "user", "out")
SENDING: Final = Stage("send, in Python", "user", "out")
SEND: Final = Stage("send", "kernel", "out")
RECEIVE: Final = Stage("receive", "kernel", "in")
RECEIVING: Final = Stage("receive, in Python", "user", "in")
OPEN: Final = Stage("open", "user", "in")
REPLAY: Final = Stage("replay window", "user", "in")
REASSEMBLE: Final = Stage("reassemble", "user", "in")
CHECK_IN: Final = Stage("check", "user", "in")
JOIN: Final = Stage("split and join packets", "user", "both")
TUN_WRITE: Final = Stage("TUN write", "kernel", "in")
COUNT: Final = Stage("counters", "user", "both")
LOOP: Final = Stage("loop", "user", "both")
OTHER: Final = Stage("other", "user", "both")
WAIT: Final = Stage("wait", "kernel", "both")  # no work: see above

# What a source line calls → stage.
CALLS: Final = (
    ("readv(", TUN_READ),
    ("writev(", TUN_WRITE),
    ("sendmsg(", SEND),
    ("recvmsg_into(", RECEIVE),
    ("eventfd_write(", BELL),
    ("poll.poll(", WAIT),
)
# File below fwd/ → stage of its functions, but for those named.
FILES: Final = {
    "datapath/demux.py": LOOP,
    "datapath/shapes.py": CHECK_OUT,
    "datapath/lane.py": LOOP,
    "datapath/outbound.py": FRAMING,
    "datapath/inbound.py": RECEIVING,
    "datapath/accepted.py": RECEIVING,
    "datapath/delivery.py": CHECK_IN,
    "datapath/payloads/superpacket.py": FRAMING,
    "datapath/payloads/esp.py": FRAMING,
    "datapath/member.py": LOOP,
    "datapath/ring.py": FLUSH,
    "datapath/udp.py": SENDING,
    "datapath/counters.py": COUNT,
    "datapath/shared.py": COUNT,
    "proto/aggfrag.py": FRAMING,
    "proto/burst.py": SEAL,
    "proto/compiled.py": SEAL,
    "proto/core.py": SEAL,
    "proto/esp.py": SEAL,
    "proto/flow.py": CHECK_OUT,
    "proto/ip.py": CHECK_OUT,
    "proto/path.py": LOOP,
    "proto/reassembly.py": REASSEMBLE,
    "proto/replay.py": REPLAY,
    "proto/segments.py": JOIN,
}
FUNCTIONS: Final = {
    ("datapath/lane.py", "put"): COPY,
    ("datapath/lane.py", "_begin"): COPY,
    ("datapath/lane.py", "flush"): FLUSH,
    ("datapath/demux.py", "_hand_over"): FLUSH,
    ("datapath/demux.py", "_read_burst"): CHECK_OUT,
    ("datapath/udp.py", "read_ancillary"): RECEIVING,
    ("datapath/payloads/superpacket.py", "take_run"): RECEIVING,
    ("datapath/payloads/superpacket.py", "take_row"): RECEIVING,
    ("datapath/payloads/superpacket.py", "_turn_to"): RECEIVING,
    ("datapath/payloads/superpacket.py", "_take_each"): RECEIVING,
    ("datapath/payloads/superpacket.py", "_take_payload"): RECEIVING,
    ("datapath/payloads/superpacket.py", "_record"): CHECK_IN,
    ("datapath/payloads/superpacket.py", "_gather"): CHECK_IN,
    ("datapath/payloads/superpacket.py", "flush"): CHECK_IN,
    ("datapath/payloads/esp.py", "take_run"): CHECK_IN,
    ("datapath/payloads/esp.py", "take_row"): CHECK_IN,
    ("datapath/payloads/esp.py", "_join"): CHECK_IN,
    ("datapath/payloads/esp.py", "_packet"): CHECK_IN,
    ("proto/aggfrag.py", "all_records"): REASSEMBLE,
    ("proto/aggfrag.py", "block_offset"): REASSEMBLE,
    ("proto/burst.py", "lay_record"): COPY,
    ("proto/segments.py", "lay_packet"): COPY,
    ("proto/burst.py", "open_burst"): OPEN,
    ("proto/burst.py", "_number"): OPEN,
    ("proto/burst.py", "_rising"): OPEN,
    ("proto/burst.py", "_open_each"): OPEN,
    ("proto/burst.py", "_decrypt"): OPEN,
    ("proto/compiled.py", "open_burst"): OPEN,
    ("proto/compiled.py", "_without"): OPEN,
    ("proto/core.py", "open_one"): OPEN,
    ("proto/esp.py", "_is_authentic"): OPEN,
    ("proto/burst.py", "record_ends"): REASSEMBLE,
    ("proto/burst.py", "_peek"): REASSEMBLE,
    ("proto/esp.py", "open_one"): OPEN,
    ("proto/ip.py", "record_fault"): CHECK_IN,
    ("proto/ip.py", "_gso_fault"): CHECK_IN,
}
_ROOT = Path(fwd.__file__).parent
_FRAME = re.compile(r"(?P<function>\S.*) \((?:\S*/)?fwd/(?P<file>(?:datapath|proto)/[\w/]+\.py):(?P<line>\d+)\)")


def stage_of(stack: str) -> Stage:
    """The stage of one stack, `function (file:line);…`, outermost first."""
    for frame in reversed(stack.split(";")):
        match = _FRAME.fullmatch(frame)
        if match:
            return _stage(match["file"], match["function"].rpartition(".")[2], int(match["line"]))
    return OTHER


def _stage(file: str, function: str, line: int) -> Stage:
    text = linecache.getline(str(_ROOT / file), line)
    for call, stage in CALLS:
        if call in text:
            return stage
    return FUNCTIONS.get((file, function)) or FILES.get(file, OTHER)


def count(lines: Iterable[str]) -> Counter[Stage]:
    """Samples by stage; `lines` as py-spy writes them: a stack, a space, how often it was seen."""
    samples: Counter[Stage] = Counter()
    for line in lines:
        stack, _, times = line.rpartition(" ")
        samples[stage_of(stack)] += int(times)
    return samples


def sampler() -> Path | None:
    """py-spy, if it is there: beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    found = shutil.which(str(beside)) or shutil.which("py-spy")
    return Path(found) if found else None


def sample(tool: Path, pid: int, seconds: int, out: Path) -> Counter[Stage]:
    """Samples of a process at 500 Hz for so long, by stage. Raises OSError where it may not be looked at."""
    argv = [str(tool), "record", "--format", "raw", "--rate", "500", "--duration", str(seconds)]
    argv += ["--output", str(out), "--pid", str(pid)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
        raise OSError(f"py-spy: {reason.strip()}")
    with out.open() as lines:
        return count(lines)
