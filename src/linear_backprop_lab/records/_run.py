"""One run: a folder, named by a hash of its configuration, that survives being killed.

    <root>/<experiment>/<hash>/
        config.json         what was asked; the hash is of this
        environment.json    versions, commit, hardware
        metrics.jsonl       a line a step or epoch, appended and flushed
        <name>.npz          arrays, written whole or not at all
        checkpoint.pt       tensors to go on from, while the run is unfinished
        record.json         the closing record; its presence means the run is complete

Everything but `metrics.jsonl` is written to a temporary file and renamed, so that a kill leaves the
old content or the new, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._environment import environment


class RunError(Exception):
    """A record that cannot be read: which file, what is wrong with it, what to do."""


class Run:
    """A run's folder. Making one touches nothing; `start` begins or restarts it.

    Args:
        root: The folder all records lie in.
        config: What is run, as JSON values; `config["experiment"]` names the experiment.
    """

    def __init__(self, root: Path, config: Mapping[str, Any]) -> None:
        self.config = json.loads(json.dumps(config))
        self.folder = root / self.config["experiment"] / self.key

    @property
    def key(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the canonical configuration."""
        canonical = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def is_complete(self) -> bool:
        """Whether the closing record is there."""
        return (self.folder / "record.json").is_file()

    def start(self) -> None:
        """Begin the run afresh; what an unfinished attempt left is removed.

        Raises:
            RunError: The run is complete already; its record is not thrown away.
        """
        if self.is_complete:
            raise RunError(f"{self.folder} is complete; remove the folder to run it again")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self._write_json("config.json", self.config)
        self._write_json("environment.json", environment())

    def log(self, **metrics: Any) -> None:
        """Append one line to `metrics.jsonl` and flush it to the disk."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write `<name>.npz`, whole or not at all."""
        temporary = self.folder / f".{name}.tmp.npz"
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
        temporary.replace(self.folder / f"{name}.npz")

    def save_checkpoint(self, **state: Any) -> None:
        """Write `checkpoint.pt`, whole or not at all: tensors, numbers, strings, dicts and lists of them."""
        temporary = self.folder / ".checkpoint.tmp"
        torch.save(state, temporary)
        temporary.replace(self._checkpoint)

    def resume(self) -> dict[str, Any] | None:
        """What the checkpoint of an unfinished attempt holds, on the CPU; None where there is none.

        Raises:
            RunError: The checkpoint cannot be read.
        """
        if self.is_complete or not self._checkpoint.exists():
            return None
        try:
            return torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            # PyTorch's own message is long, and advises to load what may run code.
            raise RunError(
                f"{self._checkpoint} cannot be read ({type(error).__name__}); remove {self.folder} and run again"
            ) from error

    def keep_metrics(self, count: int) -> None:
        """Drop every line of `metrics.jsonl` after the first `count`, and a line cut short by a kill."""
        lines = self.metrics[:count]
        temporary = self.folder / ".metrics.tmp"
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(self.folder / "metrics.jsonl")

    def close(self, **record: Any) -> None:
        """Write the closing record; from then on the run is complete, and its checkpoint is removed."""
        self._write_json("record.json", record)
        self._checkpoint.unlink(missing_ok=True)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def record(self) -> dict[str, Any]:
        """The closing record."""
        return self._read_json("record.json")

    @property
    def environment(self) -> dict[str, Any]:
        """Where the run was made: versions, commit, hardware."""
        return self._read_json("environment.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last line cut short by a kill is left out."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            text = path.read_text()
            whole = text[: text.rfind("\n") + 1]
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}); remove {self.folder} and run again") from error

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of `<name>.npz`."""
        path = self.folder / f"{name}.npz"
        try:
            # Opened here because numpy leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:
            raise RunError(f"{path} cannot be read ({error}); remove {self.folder} and run again") from error

    def _write_json(self, name: str, value: Any) -> None:
        temporary = self.folder / f".{name}.tmp"
        temporary.write_text(json.dumps(value, indent=2) + "\n")
        temporary.replace(self.folder / name)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}); remove {self.folder} and run again") from error


def runs_below(root: Path) -> Iterator[Run]:
    """Every complete run below `root`, in the order of their folders' names.

    Raises:
        RunError: A configuration cannot be read, or does not belong to the folder it lies in.
    """
    for path in sorted(root.glob("*/*/record.json")):
        config = path.parent / "config.json"
        try:
            run = Run(root, json.loads(config.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{config} cannot be read ({error}); remove its folder") from error
        if run.folder != path.parent:
            raise RunError(f"{config} was changed: its hash names {run.folder.name}; remove its folder")
        yield run
