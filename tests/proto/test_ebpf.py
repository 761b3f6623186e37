"""Programs of eBPF: instructions as RFC 9669 numbers them, and jumps that lead somewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fwd.proto.ebpf import R0, R1, R2, R7, R8, R9, STACK, Program

ENCODED: list[tuple[str, Callable[[Program], None], str]] = [
    ("r7 = 4", lambda p: p.set(R7, 4), "b7 07 0000 04000000"),
    ("r9 = r0", lambda p: p.copy(R9, R0), "bf 09 0000 00000000"),
    ("r0 += 1", lambda p: p.work(R0, "+", 1), "07 00 0000 01000000"),
    ("r0 /= 10^7", lambda p: p.work(R0, "/", 10_000_000), "37 00 0000 80969800"),
    ("r9 &= 15", lambda p: p.work(R9, "&", 15), "57 09 0000 0f000000"),
    ("r7 >>= 48", lambda p: p.work(R7, ">>", 48), "77 07 0000 30000000"),
    ("r7 <<= 1", lambda p: p.work(R7, "<<", 1), "67 07 0000 01000000"),
    ("r7 *= r8", lambda p: p.work_with(R7, "*", R8), "2f 87 0000 00000000"),
    ("r7 ^= r0", lambda p: p.work_with(R7, "^", R0), "af 07 0000 00000000"),
    ("r1 += r2", lambda p: p.work_with(R1, "+", R2), "0f 21 0000 00000000"),
    ("r0 = u16 at r1", lambda p: p.load(2, R0, R1, 0), "69 10 0000 00000000"),
    ("r2 = u32 at r1 + 4", lambda p: p.load(4, R2, R1, 4), "61 12 0400 00000000"),
    ("r1 = u64 at r10 - 8", lambda p: p.load(8, R1, STACK, -8), "79 a1 f8ff 00000000"),
    ("u32 at r1 = r0", lambda p: p.store(4, R1, 0, R0), "63 01 0000 00000000"),
    ("u64 at r10 - 8 = r9", lambda p: p.store(8, STACK, -8, R9), "7b 9a f8ff 00000000"),
    ("u64 at r10 - 8 = 40", lambda p: p.store_number(8, STACK, -8, 40), "7a 0a f8ff 28000000"),
    ("r0 = u8 of the packet at 9", lambda p: p.load_packet(1, 9), "30 00 0000 09000000"),
    ("r0 = u16 of the packet at 6", lambda p: p.load_packet(2, 6), "28 00 0000 06000000"),
    ("r0 = u32 of the packet at 12", lambda p: p.load_packet(4, 12), "20 00 0000 0c000000"),
    ("r0 = u32 of the packet at r1", lambda p: p.load_packet_behind(4, R1, 0), "40 10 0000 00000000"),
    ("r8 = a wide number", lambda p: p.set_wide(R8, 0x0102030405060708), "18 08 0000 08070605 00000000 04030201"),
    ("r1 = an address in map 5", lambda p: p.set_address(R1, 5, 256), "18 21 0000 05000000 00000000 00010000"),
    ("call 5", lambda p: p.call(5), "85 00 0000 05000000"),
    ("leave", lambda p: p.leave(), "95 00 0000 00000000"),
]


@pytest.mark.parametrize(("put", "octets"), [row[1:] for row in ENCODED], ids=[row[0] for row in ENCODED])
def test_instructions_are_encoded_as_the_kernel_has_them(put: Callable[[Program], None], octets: str) -> None:
    program = Program()
    put(program)
    assert program.encoded() == bytes.fromhex(octets)


def test_a_jump_counts_instructions_and_a_wide_number_is_two() -> None:
    program = Program()
    program.jump_if(R0, "==", 6, "there")
    program.jump_if(R0, "!=", 4, "there")
    program.jump_if(R0, ">=", 4, "there")
    program.jump_if_same(R0, R2, "there")
    program.jump("there")
    program.set_wide(R8, 1)
    program.label("there")
    program.leave()
    wanted = (
        "15 00 0600 06000000", "55 00 0500 04000000", "35 00 0400 04000000", "1d 20 0300 00000000",
        "05 00 0200 00000000", "18 08 0000 01000000", "00 00 0000 00000000", "95 00 0000 00000000",
    )  # fmt: skip
    assert program.encoded() == bytes.fromhex("".join(wanted))


def test_a_jump_to_nowhere_or_back_is_refused() -> None:
    nowhere = Program()
    nowhere.jump("there")
    with pytest.raises(ValueError, match="cannot jump to 'there'"):
        nowhere.encoded()

    back = Program()
    back.label("here")
    back.jump("here")
    with pytest.raises(ValueError, match="cannot jump to 'here'"):
        back.encoded()


def test_a_label_is_one_place() -> None:
    program = Program()
    program.label("here")
    with pytest.raises(ValueError, match="two labels here"):
        program.label("here")
