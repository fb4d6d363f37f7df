"""Files that are written whole or not at all, and the checksums that tell."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from ._errors import RunError

SUMS = "SHA256SUMS"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\n]+)")


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a temporary file, flush it to the disk and rename it: a kill leaves the old content or the new.

    Of several writers at once each has a temporary file of its own, and the last to end stays.

    Raises:
        RunError: The disk is full, or refuses for another reason; the old content is kept.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def require_writable(folder: Path, option: str) -> None:
    """Make a folder and see that it takes a file, before anything is run for it.

    Args:
        folder: Where files are to be written.
        option: Of the command line, that names another.

    Raises:
        RunError: It cannot be made, or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 12))
            file.flush()
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); name another place with {option}") from error


def append_line(path: Path, line: str) -> None:
    """Append a line and flush it to the disk; a kill or a full disk may leave a part of it, without its end.

    Raises:
        RunError: The disk is full, or refuses for another reason.
    """
    try:
        with path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error to raise where `path` could not be written."""
    mend = "make room there" if error.errno in _FULL else "mend that, or name another place,"
    return RunError(f"{path} cannot be written ({error.strerror}); {mend} and run again, it goes on")


def checksum(content: bytes) -> str:
    """The SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sums_of(contents: Iterable[tuple[str, bytes]]) -> bytes:
    """The text of a `SHA256SUMS` file, as `sha256sum --check` reads it."""
    return "".join(f"{checksum(content)}  {name}\n" for name, content in sorted(contents)).encode()


def check_sums(folder: Path) -> None:
    """Compare the files of a folder with its `SHA256SUMS`.

    Raises:
        RunError: One is not what it says; which, and in which way.
    """
    try:
        lines = (folder / SUMS).read_bytes().decode(errors="replace").splitlines()
    except OSError as error:
        raise RunError(f"{SUMS} cannot be read ({error.strerror})") from error
    if not lines:
        raise RunError(f"{SUMS} is empty")
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise RunError(f"{SUMS} is damaged")
        expected, name = match.groups()
        if not (folder / name).is_file():
            raise RunError(f"{name} is missing")
        if checksum((folder / name).read_bytes()) != expected:
            raise RunError(f"{name} is not as it was written")
