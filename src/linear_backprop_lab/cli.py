"""The command line: reproduce experiments, draw the report, list the rules, try one on one's own model."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import linear_backprop as lb
from linear_backprop.diagnostics import collapse_error, gradient_alignment
from linear_backprop_lab._help import Command, Group
from linear_backprop_lab._options import Address, Data, Engine, GpusPerRun, OnlyRuns, Report, Runs, Workers
from linear_backprop_lab._own_model import OwnModelError, collapsible, converted, loss, own_model
from linear_backprop_lab._tables import alignment_table, experiments_table, layer_rules_table, rules_table, runs_table
from linear_backprop_lab.data import DataError, cifar10_folder, load_images
from linear_backprop_lab.records import RunError, listing, require_writable
from linear_backprop_lab.report import ReportError, check_report_path, write_report
from linear_backprop_lab.studies import (
    EXPERIMENTS,
    Experiment,
    Only,
    Place,
    Scale,
    awaited,
    check_settings,
    experiments_named,
    gather,
    jobs_of,
    runs_with,
    stages_of,
)
from linear_backprop_lab.sweeps import EngineError, EngineName, Sweep, choose_engine, follow, follows, leading, workload

_FAILED, _INTERRUPTED = 1, 130
_RULE_EXAMPLES = ("linear", "pre-activation", '"Clipped(low=-2.0)"', '"Blend(Linear(), Exact(), 0.5)"')

_LIST = "list"

app = typer.Typer(
    cls=Group, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False
)
_console = Console()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app(args=arguments, prog_name="linear-backprop")
    except (lb.LinearBackpropError, DataError, EngineError, OwnModelError, ReportError, RunError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(_FAILED)


def _version(wanted: bool) -> None:
    if wanted:
        _console.print(f"linear-backprop {importlib.metadata.version('linear-backprop')}", highlight=False)
        raise typer.Exit


@contextmanager
def _usage() -> Generator[None, None, None]:
    """Report a wrong argument as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"{text!r} is not a shape; give positive sizes and commas, such as 8,3,32,32")
    return tuple(map(int, sizes))


_EXPERIMENTS = "\n\n".join(
    f"[bold]{', '.join((experiment.name, *experiment.views))}[/]  {experiment.summary}" for experiment in EXPERIMENTS
)

_VIEWS = f"\nParts by name: {', '.join(view for experiment in EXPERIMENTS for view in experiment.views)}"


@app.callback()
def _everything(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Train non-linear networks with a linear backward pass, and check what the paper says of it.

    [bold]linear-backprop reproduce[/]  makes the paper's first figure and a small comparison on images, in minutes

    [bold]linear-backprop reproduce list[/]  lists the experiments

    [bold]linear-backprop runs[/]  lists what is recorded, finished or not

    [bold]linear-backprop rules[/]  lists the backward rules

    [bold]linear-backprop convert-check my_models:Net[/]  shows what a rule would do to your own model
    """


@app.command(
    cls=Command,
    epilog=f"""The experiments; names after the first are views of the same runs:\n\n{_EXPERIMENTS}

For example:\n\n[bold]linear-backprop reproduce[/]

[bold]linear-backprop reproduce images --data ~/cifar-10-batches-bin[/]

[bold]linear-backprop reproduce fig1 --runs results --report results/REPORT.md[/]

[bold]linear-backprop reproduce fig4 --only batch_norm=true --only learning_rate=0.001[/]

[bold]linear-backprop reproduce images --engine ray --address auto --gpus-per-run 0.25[/]

[bold]torchrun --nproc-per-node 8 -m linear_backprop_lab reproduce fig4 --scale paper[/]""",
)
def reproduce(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXPERIMENT", help="Which, or all; fig1 and images if none is named; list lists them."),
    ] = None,
    scale: Annotated[
        Scale,
        typer.Option(help="smoke: seconds, to see it run; cpu: minutes on two cores; paper: the paper's own settings."),
    ] = Scale.CPU,
    only: OnlyRuns = None,
    data: Data = None,
    runs: Runs = Path("runs"),
    report: Report = Path("runs/report.html"),
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing; without CIFAR-10, use scikit-learn's digits.")
    ] = False,
    engine: Engine = EngineName.LOCAL,
    workers: Workers = None,
    address: Address = None,
    gpus_per_run: GpusPerRun = None,
) -> None:
    """Run experiments of the paper, then draw the report.

    What is complete already is not run again; what was interrupted goes on. Ctrl-C is safe at any time. A run
    that fails leaves the others alone, and is tried again by the same command; so is one whose record is damaged.
    Several of these commands may work on one folder at once. Under torchrun all its processes make each run together.
    """
    if follows():
        return follow()
    if experiments == [_LIST]:
        return _console.print(experiments_table(), _VIEWS, highlight=False)
    with _usage():
        chosen = experiments_named(experiments or [])
        check_report_path(report)
        chosen_engine = choose_engine(engine, workers, address, gpus_per_run)
        wanted = [Only.parse(setting) for setting in only or ()]
    if data is not None:
        cifar10_folder(data)
    require_writable(runs, "--runs")
    require_writable(report.parent, "--report")
    settings = (chosen, Place(runs.resolve(), data, not offline and _can_download(chosen, data)), scale)
    with _usage():
        if wanted:
            check_settings(jobs_of(*settings), wanted)
    failed = 0
    try:
        with leading():
            for stage in stages_of(*settings):
                sweep = Sweep.of(runs_with(stage, wanted))
                _console.print(sweep.plan())
                _console.print(workload(sweep, 0 if wanted else awaited(*settings), workers), highlight=False)
                failed += sweep.perform(chosen_engine, _console)
    except KeyboardInterrupt:
        _console.print("\ninterrupted; every record is whole: give the same command again to go on")
        raise typer.Exit(_INTERRUPTED) from None
    _draw(runs, report)
    if failed:
        _console.print(f"[red]{failed} of the runs failed[/]; see: linear-backprop runs --runs {escape(str(runs))}")
        raise typer.Exit(_FAILED)


@app.command(name="runs", cls=Command)
def list_runs(runs: Runs = Path("runs")) -> None:
    """List what is recorded: complete, diverged, running, unfinished, failed, broken or set aside.

    For example:

    [bold]linear-backprop runs --runs results[/]
    """
    found = listing(runs)
    if not found:
        raise RunError(f"no record lies below {runs}; make some with: linear-backprop reproduce")
    _console.print(runs_table(found), highlight=False)


@app.command(cls=Command)
def report(runs: Runs = Path("runs"), report: Report = Path("runs/report.html")) -> None:
    """Draw the report again, from records alone: nothing is run.

    For example:

    [bold]linear-backprop report --runs results --report results/REPORT.md[/]
    """
    with _usage():
        check_report_path(report)
    if runs.is_dir():  # Otherwise there is nothing to write.
        require_writable(report.parent, "--report")
    _draw(runs, report)


@app.command(cls=Command)
def rules() -> None:
    """List the backward rules: what each sends to a pre-activation, or a layer's input, a when h receives g."""
    _console.print(rules_table(), "", layer_rules_table(), highlight=False)
    first = f"  # the first {len(lb.LINEAR_LAYERS)}"
    _console.print(f"\nIn Python: lb.convert(model, lb.Linear(), layers=lb.LINEAR_LAYERS){first}", highlight=False)
    _console.print("\nExamples for --rule:", *_RULE_EXAMPLES, sep="\n  ", highlight=False)


@app.command(cls=Command)
def convert_check(
    target: Annotated[
        str,
        typer.Argument(metavar="MODULE:FACTORY", help="What makes your model; looked for in this folder first."),
    ],
    input_shape: Annotated[
        str, typer.Option(metavar="N,...", help="The shape of a batch drawn from N(0, 1).")
    ] = "8,3,32,32",
    rule: Annotated[str, typer.Option(metavar="RULE", help="A rule; see: linear-backprop rules")] = "linear",
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only modules whose path matches; may be repeated."),
    ] = None,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Collapse it, too, and say how far the gradients agree.")
    ] = False,
) -> None:
    """Convert your model, list what follows the rule, and compare its gradient with Backprop's on one batch.

    FACTORY is called without arguments and returns a model, or a pair (model, inputs) for one that takes no batch
    of floats. The loss is half the mean square of the output, or of the first tensor in it. For example:

    [bold]linear-backprop convert-check my_models:Net --input-shape 16,1,28,28 --rule pre-activation[/]
    """
    with _usage():
        backward_rule = lb.rule_from_name(rule)
        collapsed_rule = collapsible(backward_rule) if collapse else None
        own = own_model(target, _shape(input_shape))
    _console.print(converted(own, backward_rule, where), highlight=False, markup=False, soft_wrap=True)
    alignment = gradient_alignment(own.model, backward_rule, own.inputs, loss, where)
    _console.print("", alignment_table(alignment), highlight=False)
    if collapsed_rule is not None:
        error = collapse_error(own.model, own.inputs, loss, collapsed_rule, where)
        _console.print(f"\ncollapsed gradients: within {error:.1e} of convert's (relative)", highlight=False)


def _can_download(experiments: Sequence[Experiment], data: Path | None) -> bool:
    """Whether CIFAR-10 is there, or could be downloaded now, lest each run try again; where not, it is said."""
    if data is not None or not any(experiment.on_images for experiment in experiments):
        return True
    found = load_images().name == "cifar10"
    if not found:
        _console.print("no CIFAR-10 to download: digits take its place; --data DIR names its folder", highlight=False)
    return found


def _draw(runs: Path, path: Path) -> None:
    write_report(gather(runs), path)
    _console.print(f"report: [bold]{escape(str(path.resolve()))}[/]", highlight=False, soft_wrap=True)
