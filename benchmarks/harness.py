"""What every benchmark shares: alternate the candidates, take medians, say on what it was measured."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from linear_backprop_lab.records import environment
from linear_backprop_lab.timing import Timed as Timed
from linear_backprop_lab.timing import medians as medians
from linear_backprop_lab.timing import seconds as seconds


def where_and_when() -> str:
    """One line: hardware, versions, date."""
    env = environment()
    machine = env["device"] if env["device"] != "cpu" else f"{env['processor']}, {env['threads']} threads"
    date = datetime.datetime.now(datetime.UTC).date()
    return f"{machine}; torch {env['torch']}, Python {env['python']}; commit {env['commit']}; {date}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
