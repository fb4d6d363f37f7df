"""One writer at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ._files import cannot_write
from ._run import Run


class BusyError(Exception):
    """Another process holds the lock."""


@contextmanager
def lock(run: Run, *, wait: bool = False) -> Generator[None]:
    """Hold the run for this process, so that no other makes it meanwhile.

    The operating system gives the lock back when its holder ends, in whichever way, so that there is no
    stale one. It holds among the processes of one machine, and among machines on file systems that share
    `flock` (NFS from version 4, Lustre mounted with `flock`); where they do not, give each machine a
    folder of its own and merge by copying.

    Args:
        run: What is held; its folder need not exist.
        wait: Whether to wait for a process that holds it.

    Raises:
        BusyError: Another process holds it, and `wait` is false.
        RunError: The folder cannot be written.
    """
    path = _path(run)
    held = FileLock(path, timeout=-1 if wait else 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise BusyError(f"another process makes {run.folder}") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        # While it is held, so that whoever opened the file before sees that it names no lock any more.
        with suppress(OSError):
            path.unlink()
        held.release()


def is_locked(run: Run) -> bool:
    """Whether a process makes the run now."""
    if not _path(run).exists():
        return False
    try:
        with lock(run):
            return False
    except BusyError:
        return True


def _path(run: Run) -> Path:
    """Beside the folder, which may be renamed or copied while it is held."""
    return run.folder.with_name(f".{run.key}.lock")
