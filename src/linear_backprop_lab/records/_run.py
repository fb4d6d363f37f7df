"""One run: a folder, named by a hash of its configuration, that survives being killed.

    <root>/<experiment>/<hash>/
        config.json         what was asked; the hash is of this
        environment.json    versions, commit, hardware
        metrics.jsonl       a line a step or epoch, appended and flushed
        <name>.npz          arrays
        checkpoint.pt       tensors to go on from, while the run is unfinished
        failure.json        why the last attempt ended early, until the next begins
        SHA256SUMS          of all that stays, as `sha256sum --check` reads it
        record.json         the closing record; its presence means the run is complete

Everything but `metrics.jsonl` is written to a temporary file, flushed to the disk and renamed, so that a
kill leaves the old content or the new, never half of one.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import traceback
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._environment import environment
from ._errors import RunError
from ._files import SUMS, append_line, cannot_write, checksum, sums_of, write_whole

AGAIN = "give the command that made it again, and it is set aside and made anew"
_NAME = re.compile(r"[0-9a-f]{12}(\.broken-\d+)?")


class Run:
    """A run's folder. Making one touches nothing; `start` begins or restarts it.

    One process at a time may write: hold `lock(run)`.

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
            RunError: The run is complete already, its record is not thrown away; or it cannot be written.
        """
        if self.is_complete:
            raise RunError(f"{self.folder} is complete; remove the folder to run it again")
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._write_json("config.json", self.config)
        self._write_json("environment.json", environment())

    def log(self, **metrics: Any) -> None:
        """Append one line to `metrics.jsonl` and flush it to the disk."""
        append_line(self._metrics, json.dumps(metrics))

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write `<name>.npz`, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_whole(self.folder / f"{name}.npz", buffer.getbuffer())

    def save_checkpoint(self, **state: Any) -> None:
        """Write `checkpoint.pt`, whole or not at all: tensors, numbers, strings, dicts and lists of them.

        It vouches for the lines of metrics written so far: `resume` compares them.
        """
        metrics = self._metrics.read_bytes() if self._metrics.exists() else b""
        vouched = {"bytes": len(metrics), "sha256": checksum(metrics)}
        buffer = io.BytesIO()
        torch.save({"state": state, "metrics": vouched}, buffer)
        write_whole(self._checkpoint, buffer.getbuffer())

    def resume(self) -> dict[str, Any] | None:
        """What the checkpoint of an unfinished attempt holds, on the CPU; None where there is none.

        Raises:
            RunError: The checkpoint cannot be read, or the metrics are not those it was written after.
        """
        if self.is_complete or not self._checkpoint.exists():
            return None
        try:
            # PyTorch does not compare the checksums that its files hold.
            with zipfile.ZipFile(self._checkpoint) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} in it is damaged")
            saved = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            state, vouched = saved["state"], saved["metrics"]
        except Exception as error:
            # PyTorch's own message is long, and advises to load what may run code.
            raise RunError(f"{self._checkpoint} cannot be read ({type(error).__name__}); {AGAIN}") from error
        metrics = self._metrics.read_bytes() if self._metrics.exists() else b""
        if checksum(metrics[: vouched["bytes"]]) != vouched["sha256"]:
            raise RunError(f"{self._metrics} is damaged (its checkpoint was written after other lines); {AGAIN}")
        return state

    def keep_metrics(self, count: int) -> None:
        """Drop every line of `metrics.jsonl` after the first `count`, and a line cut short by a kill."""
        lines = self.metrics[:count]
        write_whole(self._metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def close(self, **record: Any) -> None:
        """Write the closing record; from then on the run is complete, and its checkpoint is removed."""
        content = _json(record)
        stays = [path for path in self.folder.iterdir() if path.suffix in (".json", ".jsonl", ".npz")]
        others = [(path.name, path.read_bytes()) for path in stays if not path.name.startswith(".")]
        write_whole(self.folder / SUMS, sums_of([*others, ("record.json", content)]))
        write_whole(self.folder / "record.json", content)
        self._checkpoint.unlink(missing_ok=True)
        for cut_short in self.folder.glob(".*.tmp"):  # by a kill
            cut_short.unlink()

    def fail(self, error: BaseException | str) -> None:
        """Write why this attempt ended early, for whoever looks; the next attempt removes it."""
        said = error if isinstance(error, str) else f"{type(error).__name__}: {error}".strip(": ")
        trace = "" if isinstance(error, str) else "".join(traceback.format_exception(error))
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "config.json").exists():
            self._write_json("config.json", self.config)
        self._write_json("failure.json", {"error": said, "traceback": trace.splitlines()})

    def forget_failure(self) -> None:
        """Remove what `fail` wrote."""
        (self.folder / "failure.json").unlink(missing_ok=True)

    @property
    def failure(self) -> str | None:
        """Why the last attempt ended early, in a line; None where none did."""
        if not (self.folder / "failure.json").exists():
            return None
        return str(self._read_json("failure.json").get("error", "it was not recorded why"))

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
        if not self._metrics.exists():
            return []
        try:
            text = self._metrics.read_text()
            whole = text[: text.rfind("\n") + 1]
            return [_mapping(line) for line in whole.splitlines()]
        except (OSError, ValueError) as error:
            raise RunError(f"{self._metrics} is damaged ({error}); {AGAIN}") from error

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of `<name>.npz`."""
        path = self.folder / f"{name}.npz"
        try:
            # Opened here because numpy leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:
            raise RunError(f"{path} cannot be read ({error}); {AGAIN}") from error

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _write_json(self, name: str, value: Any) -> None:
        write_whole(self.folder / name, _json(value))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            return _mapping(path.read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}); {AGAIN}") from error


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _mapping(text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        ValueError: It is no JSON, or another value.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object with names")
    return value


def run_in(folder: Path) -> Run:
    """The run whose folder this is.

    Raises:
        RunError: Its configuration cannot be read, or names another folder.
    """
    config = folder / "config.json"
    try:
        run = Run(folder.parents[1], _mapping(config.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{config} cannot be read ({error}); {AGAIN}") from error
    if run.folder != folder:
        raise RunError(f"{config} was changed: its hash names {run.folder.name}; {AGAIN}")
    return run


def is_set_aside(folder: Path) -> bool:
    """Whether the folder's name says that it was set aside."""
    return ".broken-" in folder.name


def folders_below(root: Path) -> list[Path]:
    """Every folder below `root` that has a run's name, and those set aside."""
    return [path for path in root.glob("*/*") if _NAME.fullmatch(path.name) and path.is_dir()]
