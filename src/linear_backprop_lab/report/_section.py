"""A section of the report: what was asked, what came out, and how to run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ._claims import Claim


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        title: What it shows, in a few words.
        caption: How to read it.
        svg: The drawing, from `<svg` to `</svg>`: it can stand inside a page of HTML.
    """

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Table:
    """A small table of text.

    Attributes:
        columns: The heads.
        rows: As many cells a row as there are columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, str]]) -> Table | None:
        """From rows that have each cell under its head, all in the same order; None where there are none."""
        return cls(tuple(rows[0]), tuple(tuple(row.values()) for row in rows)) if rows else None


@dataclass(frozen=True)
class Section:
    """One experiment in the report.

    Attributes:
        id: A name without spaces, unique in the report: the anchor of the section.
        title: The heading.
        asked: What the experiment asks, in a sentence or two.
        figures: In the order they are shown.
        claims: What the paper says, beside what came out.
        table: The numbers behind the figures, where a table helps.
        rerun: The command that makes the records again.
        finding: What came out, in a sentence with numbers, for the head of the report; empty where nothing did.
        headline: The figure that shows the finding; None where another section's does.
        badges: What limits what the section says: its scale, its data, runs that go on.
    """

    id: str
    title: str
    asked: str
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    table: Table | None
    rerun: str
    finding: str = ""
    headline: Figure | None = None
    badges: tuple[str, ...] = ()
