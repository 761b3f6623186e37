"""The compiled core, where it was built: AES-GCM for whole bursts in one call, of which core.c is the source.

It does what burst.py and esp.py do in Python, octet for octet; they remain what runs where there is no core, and what
explains the stages. An SA has a cipher context of the core, or none and is worked on in Python. Refused: a core that
cannot be loaded, or does not seal as `cryptography` does; then there is none. FWD_PURE=1 leaves it alone.

The core's AES-GCM is that of the first library that is there and passes this test: Intel's ipsec-mb, or OpenSSL.
FWD_CIPHER=openssl leaves the former alone.

Each call lets other threads run, and checks all that it is given: what lies outside of a buffer is a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fwd import CIPHER, PURE

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


_VERSION: Final = 3  # FWD_CORE_VERSION in core.h
_STAGES_VERSION: Final = 3  # FWD_STAGES_VERSION in stages.h


class CoreError(ValueError):
    """The core refused what it was given: numbers that point outside of a buffer."""


def cipher(keys: SaKeys, *, sends: bool) -> Cipher | None:
    """Make an SA's cipher context, if there is a core; it is cleansed when nobody has it any more."""
    if not in_use:
        return None
    return _cipher(library, keys.spi, keys.key, keys.salt, esn=keys.esn, sends=sends)


def _cipher(library: int | None, spi: int, key: bytes, salt: bytes, *, esn: bool, sends: bool) -> Cipher:
    made = lib.fwd_sa_new(library, key, len(key), salt, len(salt), spi, esn, sends)
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


def _works(library: int) -> bool:
    """Whether the core seals and opens packets by a library as `cryptography` does, and refuses others.

    The packet is long enough for what libraries do to many blocks at once, and ends within a block.
    """
    spi, number, row = 0x1020304, 5, bytes(range(250)) * 6
    for key in (bytes(range(16)), bytes(range(32))):
        salt, out, opened = b"salt", bytearray(len(row) + 32), bytearray(len(row))
        head, iv = spi.to_bytes(4, "big") + number.to_bytes(4, "big"), number.to_bytes(8, "big")
        wanted = head + iv + AESGCM(key).encrypt(salt + iv, row, spi.to_bytes(4, "big") + iv)
        seal_one(_cipher(library, spi, key, salt, esn=True, sends=True), number, row, out, 0)
        receiver = _cipher(library, spi, key, salt, esn=True, sends=False)
        if bytes(out) != wanted or not open_one(receiver, number, out, opened) or bytes(opened) != row:
            return False

        # One bit of the ICV, and another number in the AAD.
        if open_one(receiver, number + (1 << 32), out, opened) or any(opened):
            return False
        out[-1] ^= 1
        if open_one(receiver, number, out, opened) or any(opened):
            return False
    return True


def _is_of_this_version() -> bool:
    return lib.FWD_CORE_VERSION == _VERSION and getattr(lib, "FWD_STAGES_VERSION", 0) == _STAGES_VERSION


def _is_usable(library: int) -> bool:
    try:
        return lib.fwd_library_name(library) != ffi.NULL and _works(library)
    except CoreError:  # an OpenSSL that gives no AES-GCM
        return False


def usable(libraries: Iterable[str]) -> list[int]:
    """Which of the libraries, by their names in core.h, are there and do as they should."""
    if lib is None or not _is_of_this_version():
        return []
    return [number for number in (getattr(lib, f"FWD_{name}") for name in libraries) if _is_usable(number)]


_WANTED: Final = ["OPENSSL"] if CIPHER == "openssl" else ["IPSEC_MB", "OPENSSL"]
library: int | None = next(iter(usable(_WANTED)), None)  # which the cipher contexts of SAs are of
in_use: bool = library is not None


def name() -> Literal["compiled", "pure"]:
    """What the stages of a burst run in."""
    return "compiled" if in_use else "pure"


def library_name(form: str | None = None) -> str:
    """Name and version of what does AES-GCM, for the stages in that form, or in theirs."""
    if (form or name()) == "pure":
        return " ".join(backend.openssl_version_text().split()[:2])
    told: bytes = ffi.string(lib.fwd_library_name(library))
    return told.decode("ascii")
