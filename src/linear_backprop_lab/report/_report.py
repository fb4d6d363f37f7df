"""Everything a report shows, before it is drawn on a page."""

from __future__ import annotations

from dataclasses import dataclass

from linear_backprop_lab.records import Run

from ._claims import Claim
from ._section import Figure, Section


class ReportError(ValueError):
    """There is nothing to report, or no such kind of report; says what to do."""


@dataclass(frozen=True)
class Chapter:
    """One experiment: its section, and the runs it was made from."""

    section: Section
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    Attributes:
        chapters: The experiments that have the runs their section is drawn from.
        environment: Where the runs were made, as (what, value) pairs; several values where runs differ.
        left_out: Records that cannot be read or were changed, as (folder, what is wrong with it).
        not_drawn: Sections whose runs do not suffice, as (id, what is missing).
    """

    chapters: tuple[Chapter, ...]
    environment: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...] = ()
    not_drawn: tuple[tuple[str, str], ...] = ()

    @property
    def claims(self) -> list[tuple[Section, Claim]]:
        """Every claim and the section it stands in."""
        return [(chapter.section, claim) for chapter in self.chapters for claim in chapter.section.claims]

    @property
    def findings(self) -> list[Section]:
        """The sections that have found something, those with a figure for it first."""
        found = [chapter.section for chapter in self.chapters if chapter.section.finding]
        return sorted(found, key=lambda section: section.headline is None)

    @property
    def headline(self) -> tuple[Section, Figure] | None:
        """The first figure that shows a finding, and its section."""
        shown = [(section, section.headline) for section in self.findings if section.headline is not None]
        return shown[0] if shown else None
