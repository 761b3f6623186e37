"""From which routers a beacon has heard, as others read it."""

from __future__ import annotations

from fwd.datapath.heard import ROWS, Heard


def test_each_router_has_its_last_time_and_a_new_one_takes_the_oldest_row() -> None:
    memory = memoryview(bytearray(2048))
    heard, seen = Heard(memory), Heard(memory)
    assert seen.ages_s(10**9) == {}
    heard.note("10.1.0.2", 1 * 10**9)
    heard.note("fe80::1%eth0", 2 * 10**9)
    heard.note("10.1.0.2", 3 * 10**9)
    assert seen.ages_s(4 * 10**9) == {"10.1.0.2": 1.0, "fe80::1": 2.0}

    for n in range(ROWS):
        heard.note(f"10.1.1.{n}", (5 + n) * 10**9)
    assert set(seen.ages_s(0)) == {f"10.1.1.{n}" for n in range(ROWS)}


def test_a_row_that_says_nonsense_is_an_address_all_the_same() -> None:
    assert len(Heard(memoryview(b"\xff" * 2048)).ages_s(0)) == 1
