"""The compiled core, where it was built: AES-GCM for whole bursts in one call, of which core.c is the source.

It does what burst.py and esp.py do in Python, octet for octet; they remain what runs where there is no core, and what
explains the stages. An SA has a cipher context of the core, or none and is worked on in Python. Refused: a core that
cannot be loaded, or does not seal as `cryptography` does; then there is none. FWD_PURE=1 leaves it alone.

Each call lets other threads run, and checks all that it is given: what lies outside of a buffer is a ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fwd import PURE

if TYPE_CHECKING:
    from fwd.proto.sa import SaKeys

Cipher = Any  # the core's, of one SA
Memory = Any  # where a buffer is, as the core takes it

ffi: Any = None
lib: Any = None
if not PURE:
    try:
        from fwd.proto._core import ffi, lib
    except ImportError:  # not built, or for another Python or OpenSSL
        lib = None


_VERSION: Final = 2  # FWD_CORE_VERSION in core.h
_STAGES_VERSION: Final = 1  # FWD_STAGES_VERSION in stages.h


class CoreError(ValueError):
    """The core refused what it was given: numbers that point outside of a buffer."""


def cipher(keys: SaKeys, *, sends: bool) -> Cipher | None:
    """Make an SA's cipher context, if there is a core; it is cleansed when nobody has it any more."""
    if not in_use:
        return None
    return _cipher(keys.spi, keys.key, keys.salt, esn=keys.esn, sends=sends)


def _cipher(spi: int, key: bytes, salt: bytes, *, esn: bool, sends: bool) -> Cipher:
    made = lib.fwd_sa_new(key, len(key), salt, len(salt), spi, esn, sends)
    if made == ffi.NULL:
        raise CoreError("no such key")
    return ffi.gc(made, lib.fwd_sa_free)


def memory(view: memoryview) -> Memory:
    """Return where a view's octets are, for as long as the view is. Raises BufferError where they cannot be written.

    No export of the view is kept: Python 3.11 crashes when it collects a cycle with a view that has one.
    """
    return ffi.cast("uint8_t *", ffi.from_buffer("uint8_t[]", view, True))


def words(view: memoryview) -> Memory:
    """Return where a view of 32-bit words has them, likewise."""
    return ffi.cast("uint32_t *", ffi.from_buffer("uint32_t[]", view))


def _writable(buffer: Any) -> Memory:
    return ffi.from_buffer("uint8_t[]", buffer, True)


def _read_only(buffer: Any) -> Memory:
    return ffi.from_buffer("uint8_t[]", buffer)


def seal_one(sa: Cipher, number: int, row: Any, out: Any, at: int) -> int:
    """Seal one row as the packet at `out[at:]`; return where it ends."""
    octets = len(row)
    end: int = lib.fwd_seal(
        sa, number, _read_only(row), octets, octets or 1, 0, 1, octets, 0, _writable(out), len(out), at
    )
    if end < 0:
        raise CoreError(f"a row of {octets} octets does not fit")
    return end


def open_one(sa: Cipher, number: int, packet: Any, row: Any) -> bool:
    """Open one packet into a row of its length; whether it is authentic."""
    opened: int = lib.fwd_open_one(sa, number, _read_only(packet), len(packet), _writable(row), len(row))
    if opened < 0:
        raise CoreError(f"a packet of {len(packet)} octets does not fit a row of {len(row)}")
    return opened == 1


def _works() -> bool:
    """Whether the core seals and opens a packet as `cryptography` does, and refuses another.

    The packet is long enough for what OpenSSL does to many blocks at once, and ends within a block.
    """
    spi, number, row = 0x1020304, 5, bytes(range(250)) * 6
    for key in (bytes(range(16)), bytes(range(32))):
        salt, out, opened = b"salt", bytearray(len(row) + 32), bytearray(len(row))
        head, iv = spi.to_bytes(4, "big") + number.to_bytes(4, "big"), number.to_bytes(8, "big")
        wanted = head + iv + AESGCM(key).encrypt(salt + iv, row, spi.to_bytes(4, "big") + iv)
        seal_one(_cipher(spi, key, salt, esn=True, sends=True), number, row, out, 0)
        receiver = _cipher(spi, key, salt, esn=True, sends=False)
        if bytes(out) != wanted or not open_one(receiver, number, out, opened) or bytes(opened) != row:
            return False

        # One bit of the ICV.
        out[-1] ^= 1
        if open_one(receiver, number, out, opened) or any(opened):
            return False
    return True


def _is_of_this_version() -> bool:
    return lib.FWD_CORE_VERSION == _VERSION and getattr(lib, "FWD_STAGES_VERSION", 0) == _STAGES_VERSION


def _is_usable() -> bool:
    try:
        return lib is not None and _is_of_this_version() and _works()
    except CoreError:  # an OpenSSL that gives no AES-GCM
        return False


in_use: bool = _is_usable()


def name() -> Literal["compiled", "pure"]:
    """What the stages of a burst run in."""
    return "compiled" if in_use else "pure"
