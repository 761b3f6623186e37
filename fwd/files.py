"""Files that an operator names: whose they are, who may write them, and copies of them that nobody can change.

What was looked at is what is read later, by whichever process: a file is copied to sealed memory when it is opened,
within the kernel, so that whoever opens it never has its octets. Refused, as UserError of one line: what is no regular
file, what belongs to others than root and the user who runs fwd, what others may write, and secrets that others may
read or that are links.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from fwd.proto import probe
from fwd.proto.errors import UserError

_PROBE_KEY_OCTETS_MAX: Final = 4096
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class FileError(UserError):
    """A file that cannot be used."""


def why_not_believed(about: os.stat_result) -> str:
    """Say why what a file says cannot be believed, as OpenSSH's StrictModes does; empty if it can."""
    if about.st_uid not in (0, os.geteuid()):
        return f"belongs to user {about.st_uid}, and not to root or the user who runs fwd: chown it"
    if about.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(about.st_mode):04o}): chmod go-w it"
    return ""


def sync(directory: Path) -> None:
    """Have the names in a directory on the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create_private(path: Path) -> int:
    """Make a file that only its owner may read, where there is none yet; its descriptor. Raises UserError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UserError(f"{path} is there already: nothing is overwritten") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def open_public(path: Path, what: str, octets_max: int) -> int:
    """Copy a file that need not be secret, such as a certificate; links are followed. Returns the copy's descriptor."""
    fd = _open(path, what, 0)
    try:
        return _copied(fd, path, what, octets_max, why_not_believed(os.fstat(fd)))
    finally:
        os.close(fd)


def open_secret(path: Path, what: str, octets_max: int, octets_min: int = 1) -> int:
    """Copy a file that nobody else may read. Returns the copy's descriptor."""
    fd = _open(path, what, os.O_NOFOLLOW)
    try:
        about, reason = os.fstat(fd), ""
        if stat.S_ISREG(about.st_mode) and about.st_mode & 0o077:
            mode = stat.S_IMODE(about.st_mode)
            remedy = "chmod 600 it, and draw a new one; if it is no secret, name the right file"
            reason = f"can be read by others (mode {mode:04o}): {remedy}"
        elif about.st_uid != os.geteuid():
            reason = f"belongs to user {about.st_uid}, not to the user who runs fwd: chown it"
        return _copied(fd, path, what, octets_max, reason, octets_min)
    finally:
        os.close(fd)


def _open(path: Path, what: str, flags: int) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except OSError as error:
        reason = f"cannot be opened: {error.strerror}"
        if flags and path.is_symlink():  # Kubernetes' volumes: what the link says is the way to the file itself
            reason = f"is a symbolic link: name the file itself, {path.parent / os.readlink(path)}"
        if flags and not path.is_absolute():  # it may be the secret itself, which belongs into no log
            raise FileError(
                f"{what}: there is no such file here; write a file's path, from / on, not what is in it"
            ) from None
        raise FileError(f"{path}: {what} {reason}") from None


def _copied(fd: int, path: Path, what: str, octets_max: int, reason: str, octets_min: int = 1) -> int:
    """A sealed copy of an open file, unless there is a reason against it."""
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        reason = "is not a regular file"
    elif not reason and before.st_size < octets_min:
        reason = f"holds {before.st_size} bytes, needs {octets_min} or more"
    elif not reason and before.st_size > octets_max:
        reason = f"holds {before.st_size} bytes, more than {octets_max}"
    if reason:
        raise FileError(f"{path}: {what} {reason}")
    try:
        copy = os.memfd_create(f"fwd:{what}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise FileError(f"{path}: {what} cannot be copied: {error.strerror}") from None
    try:
        octets = 0
        while sent := os.sendfile(copy, fd, octets, octets_max + 1 - octets):
            octets += sent

        # Half of a new file is neither the old nor the new one.
        after = os.fstat(fd)
        if octets != before.st_size or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise FileError(f"{path}: {what} is being written: try again")
        os.fchmod(copy, 0o400)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(copy)
        raise FileError(f"{path}: {what} cannot be copied: {error.strerror}") from None
    except FileError:
        os.close(copy)
        raise
    return copy


def read_copy(fd: int) -> bytes:
    """What is in a copy. Raises OSError."""
    return os.pread(
        fd, os.lseek(fd, 0, os.SEEK_END), 0
    )  # not fstat, which keyd's system call filter does not let through


def read_secret(path: Path, what: str, octets_max: int) -> bytes:
    """Read a file that nobody else may read. Raises FileError."""
    fd = open_secret(path.absolute(), what, octets_max)
    try:
        return read_copy(fd)
    finally:
        os.close(fd)


def stamp_of(path: Path) -> object:
    """Return what tells whether a file was written or replaced since, without reading it."""
    try:
        about = path.stat()
    except OSError:
        return path, None
    return path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


# -- the key of routers and beacons -----------------------------------------------------------------------------------


def open_probe_key(path: Path) -> int:
    """Copy the file of the probe key. Returns the copy's descriptor."""
    return open_secret(path, "probe key", _PROBE_KEY_OCTETS_MAX, 2 * probe.KEY_BYTES)


def probe_key_in(fd: int, path: Path) -> bytes:
    """Read the probe key in a copy; `path` names it. Raises FileError."""
    try:
        return probe.key_in(read_copy(fd))
    except ValueError as error:
        raise FileError(f"{path}: probe key {error}") from None


def read_probe_key(path: Path) -> bytes:
    """Read the probe key in its file. Raises FileError."""
    fd = open_probe_key(path)
    try:
        return probe_key_in(fd, path)
    finally:
        os.close(fd)


def why_no_probe_key(path: Path) -> str:
    """Say why a file cannot be the probe key; empty if it can."""
    try:
        read_probe_key(path)
    except FileError as error:
        return str(error)
    return ""
