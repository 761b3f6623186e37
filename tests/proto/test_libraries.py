"""Which form a burst's stages run in, and which library does AES-GCM for the compiled core."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from formkit import COMPILED, needs_core

from fwd.proto import core
from fwd.proto.core import CoreError
from fwd.proto.sa import SaKeys

needs_ipsec_mb = pytest.mark.skipif("IPSEC_MB" not in COMPILED, reason="there is no ipsec-mb")


def told_by(**environment: str) -> str:
    script = "from fwd.proto import core; print(core.name(), core.library_name(), core.lib is not None)"
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_fwd_pure_leaves_the_core_alone() -> None:
    assert re.fullmatch(r"pure OpenSSL [\d.]+ False", told_by(FWD_PURE="1"))


@pytest.mark.skipif(
    not (shutil.which("gcc") and Path("/usr/include/openssl/evp.h").exists()), reason="nothing to build a core with"
)
def test_where_it_can_be_built_it_is_built_and_used() -> None:
    library = "ipsec-mb" if Path("/usr/include/intel-ipsec-mb.h").exists() else "OpenSSL"
    told = told_by(FWD_PURE="", FWD_CIPHER="")
    assert re.fullmatch(rf"compiled {library} \d[\d.]+( \(.*\))? True", told)


@needs_core
def test_fwd_cipher_openssl_leaves_ipsec_mb_alone() -> None:
    assert re.fullmatch(r"compiled OpenSSL [\d.]+ True", told_by(FWD_CIPHER="openssl"))


@needs_core
def test_an_openssl_cnf_without_ciphers_leaves_the_core_its_own(tmp_path: Path) -> None:
    config = tmp_path / "openssl.cnf"
    config.write_text("openssl_conf = init\n[init]\nproviders = all\n[all]\nbase = base\n[base]\nactivate = 1\n")
    assert told_by(OPENSSL_CONF=str(config), FWD_CIPHER="openssl").startswith("compiled OpenSSL")


AT_THE_EDGE = """if True:
    import ctypes, mmap, sys
    from fwd.proto import core
    from fwd.proto.sa import SaKeys

    def fenced():
        whole = mmap.mmap(-1, 4 * 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(whole))
        for at in (0, 3 * 4096):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + at), ctypes.c_size_t(4096), 0) == 0
        return memoryview(whole)[4096 : 3 * 4096]

    core.library = int(sys.argv[1])
    row, packet, opened = fenced(), fenced(), fenced()
    for key in (bytes(16), bytes(32)):
        keys = SaKeys(1, True, key, bytes(4))
        sender, receiver = core.cipher(keys, sends=True), core.cipher(keys, sends=False)
        for n in range(1, 1600):
            for whole, own in ((slice(n + 32), slice(n)), (slice(-n - 32, None), slice(-n, None))):
                core.seal_one(sender, n, row[own], packet[whole], 0)
                assert core.open_one(receiver, n, packet[whole], opened[own])
    """


@pytest.mark.parametrize("library", COMPILED)
def test_a_library_touches_no_octet_before_or_behind_rows_and_packets(library: str) -> None:
    subprocess.run([sys.executable, "-c", AT_THE_EDGE, str(COMPILED[library])], check=True)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", COMPILED)
def test_a_library_that_takes_what_is_not_authentic_is_not_used(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def takes_all(sa: core.Cipher, number: int, packet: bytearray, row: bytearray) -> bool:
        row[:] = genuine if open_one(sa, number, packet, row) else bytes(len(row))
        return True

    open_one, genuine = core.open_one, bytes(range(250)) * 6
    monkeypatch.setattr(core, "open_one", takes_all)
    assert core.usable([library]) == []


@pytest.mark.parametrize("library", COMPILED)
def test_a_library_that_seals_otherwise_is_not_used(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "seal_one", lambda *_: 96)
    assert core.usable([library]) == []


@needs_ipsec_mb
def test_where_ipsec_mb_fails_its_test_openssl_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    works = core._works
    assert core.usable(["IPSEC_MB", "OPENSSL"]) == [core.lib.FWD_IPSEC_MB, core.lib.FWD_OPENSSL]
    monkeypatch.setattr(core, "_works", lambda library: library != core.lib.FWD_IPSEC_MB and works(library))
    assert core.usable(["IPSEC_MB", "OPENSSL"]) == [core.lib.FWD_OPENSSL]


@needs_core
@pytest.mark.parametrize("library", [-(2**31), -1, 5, 2**31 - 1])
def test_a_library_that_is_none_has_no_name_and_no_sa(library: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert core.lib.fwd_library_name(library) == core.ffi.NULL
    monkeypatch.setattr(core, "library", library)
    with pytest.raises(CoreError):
        core.cipher(SaKeys(1, True, bytes(32), bytes(4)), sends=True)


def build(library: Path, *arguments: str | Path) -> None:
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, *arguments], check=True)


@needs_ipsec_mb
def test_an_ipsec_mb_of_another_version_is_left_alone(tmp_path: Path) -> None:
    real = re.search(r"/\S+/(libIPSec_MB\.so\.\d+)\S*", Path("/proc/self/maps").read_text())
    mine = re.search(r"ipsec-mb (\d+)\.(\d+)\.(\d+)", core.library_name())
    assert real is not None
    assert mine is not None
    soname, (major, minor, patch) = real[1], map(int, mine.groups())

    # The library itself, under another name, behind one that says another version.
    shutil.copy(real[0], tmp_path / "libreal.so")
    build(tmp_path / "stub.so", "-Wl,-soname,libreal.so", "-x", "c", "/dev/null")

    def told_of(major: int, minor: int, patch: int) -> str:
        (tmp_path / "front.c").write_text(
            f"unsigned imb_get_version(void) {{ return {major << 16 | minor << 8 | patch}; }}\n"
        )
        build(tmp_path / soname, tmp_path / "front.c", "-Wl,--no-as-needed", tmp_path / "stub.so")
        return told_by(LD_LIBRARY_PATH=str(tmp_path), FWD_CIPHER="").split()[1]

    assert told_of(major, minor, patch) == "ipsec-mb"
    for other in ((major, minor, patch + 1), (major, minor + 1, patch), (major + 1, 0, 0), (0, 55, 0)):
        assert told_of(*other) == "OpenSSL"
