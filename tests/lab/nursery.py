"""Processes that can be killed at any moment, cheaply: torch is imported once, then each is a fork.

`python nursery.py MODULE:FUNCTION` reads a line of JSON arguments, forks a child that calls the function with
them, prints the child's number, reads a line, prints the status the child ended with, and so on.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Nursery:
    """Calls one function in processes of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def finish(self, *arguments: object) -> int:
        """Call it and wait for its end; the exit code, or minus the signal's number."""
        self.begin(*arguments)
        return self.end()

    def kill(self, *arguments: object, when: Callable[[], bool] = lambda: True, delay: float) -> None:
        """Call it and kill it that many seconds after `when` holds."""
        child = self.begin(*arguments)
        deadline = time.monotonic() + 180
        while not when() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        assert self.end() in (0, -signal.SIGKILL)

    def begin(self, *arguments: object) -> int:
        """Call it; the number of the process."""
        self._say(json.dumps([str(a) if isinstance(a, Path) else a for a in arguments]))
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """Wait for its end; the exit code, or minus the signal's number."""
        self._say("")
        return int(self.process.stdout.readline())

    def _say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@contextmanager
def nursery_of(function: str) -> Iterator[Nursery]:
    """A nursery of `module:function`, the module lying below `tests/`."""
    paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, function]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        yield Nursery(process)
        process.stdin.close()


def _main() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.stdin.close()
            # Only numbers are read from the nursery's own output.
            os.dup2(2, 1)
            os._exit(function(*json.loads(line)) or 0)
        print(child, flush=True)
        # Not waited for until it has been killed: its number could be another's by then.
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _main()
