"""What the supervisor tells the agent of the TUN devices."""

from __future__ import annotations

from fwd.supervise.devices import EVERY_S, Devices, queue_drops

TEXT = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo:  100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
 fwd0:1234567890 2345    1    2    3     4          5         6    98765      43    0   17    0     0       0          0
"""


def test_what_the_kernel_dropped_on_the_way_to_the_demux() -> None:
    assert queue_drops(TEXT) == {"lo": 0, "fwd0": 17}


def test_devices_are_looked_at_once_a_second() -> None:
    devices = Devices()
    devices.look(["lo", "nosuch"], 0.0)
    mtu, drops = devices.seen["lo"]
    assert mtu >= 1280
    assert drops >= 0
    assert "nosuch" not in devices.seen
    devices.seen["lo"] = (1, 1)
    devices.look(["lo"], EVERY_S / 2)
    assert devices.seen["lo"] == (1, 1)
    devices.look(["lo"], EVERY_S)
    assert devices.seen["lo"] != (1, 1)
    devices.look([], EVERY_S * 2)
    assert devices.seen == {}
