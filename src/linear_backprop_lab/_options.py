"""The options of the command line that have more to say than a line: their names, bounds and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from linear_backprop_lab.sweeps import EngineName


def _expanded(path: Path | None) -> Path | None:
    """With the home folder for `~`, which shells leave alone after `=`."""
    return None if path is None else path.expanduser()


Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder the records lie in.", callback=_expanded)]
Report = Annotated[
    Path,
    typer.Option(
        "--report",
        metavar="FILE",
        help="The report: one page (.html), or Markdown with its figures beside it (.md).",
        callback=_expanded,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="CIFAR-10's binary files: the folder cifar-10-batches-bin, or its parent.",
        callback=_expanded,
    ),
]
OnlyRuns = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="KEY=VALUE",
        help="Only the runs with this setting, such as batch_norm=true or rule=Linear(); may be repeated.",
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option("--engine", help="local: processes of this machine; ray: a cluster, pip install '.\\[ray]'."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Runs side by side, which share the cores; 1 makes them in this process. Unless given: four a GPU, or one "
        "a core, at most eight.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The Ray cluster; auto: this machine's. Unless given, one is started.",
    ),
]
GpusPerRun = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-run",
        metavar="PART",
        min=0,
        help="How much of a GPU Ray gives a run; a quarter where it has GPUs.",
    ),
]
