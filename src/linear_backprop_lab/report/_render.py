"""A report as a file: one self-contained HTML page, or Markdown with its figures beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from linear_backprop_lab.records import Run, write_whole

from ._report import Report, ReportError

_SUFFIXES = (".html", ".md")
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_BLACK = re.compile(r"#000000\b|#000\b")


def check_report_path(path: Path) -> None:
    """Refuse a name no report can be written to, before anything is run for it.

    Raises:
        ReportError: `path` ends neither in `.html` nor in `.md`, or is a folder.
    """
    if path.suffix not in _SUFFIXES:
        raise ReportError(f"cannot write a report to {path}: its name must end in {' or '.join(_SUFFIXES)}")
    if path.is_dir():
        raise ReportError(
            f"cannot write a report to {path}: it is a folder; name a file, such as {path / 'report.html'}"
        )


def write_report(report: Report, path: Path) -> None:
    """Write the report, as HTML or Markdown by the ending of `path`; folders are made as needed.

    HTML is one file that loads nothing. Markdown puts its figures beside it, `<section>-<number>.svg`.

    Args:
        report: What to show.
        path: Ends in `.html` or `.md`. Links to the records are relative to it.

    Raises:
        ReportError: `path` ends otherwise, or is a folder.
        RunError: A file cannot be written.
    """
    check_report_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    (_write_html if path.suffix == ".html" else _write_markdown)(report, path)


def _write_html(report: Report, path: Path) -> None:
    template = _environment(autoescape=True, inline=_inline, link=_link_from(path)).get_template("template.html.j2")
    write_whole(path, template.render(report=report).encode())


def _write_markdown(report: Report, path: Path) -> None:
    template = _environment(autoescape=False, cell=_cell, link=_link_from(path)).get_template("template.md.j2")
    for chapter in report.chapters:
        for number, figure in enumerate(chapter.section.figures, start=1):
            drawing = _stand_alone(_titled(figure.svg, figure.title))
            write_whole(path.parent / f"{chapter.section.id}-{number}.svg", drawing.encode())
    write_whole(path, template.render(report=report).encode())


def _environment(*, autoescape: bool, **filters: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("linear_backprop_lab.report", package_path=""),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment


def _link_from(path: Path) -> Callable[[Run], str]:
    """From a run to its folder, relative to the report at `path`."""
    return lambda run: Path(os.path.relpath(run.folder, path.parent)).as_posix()


def _cell(text: str) -> str:
    """Text inside a table of Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")


def _inline(svg: str, prefix: str, title: str) -> Markup:
    """The drawing inside a page: names of its own, and in the colour of the page's text for black."""
    return Markup(_titled(_BLACK.sub("currentColor", _ID.sub(rf"\g<1>{prefix}-", svg)), title))


def _titled(svg: str, title: str) -> str:
    """The drawing as one image with a name, for who does not see it."""
    named = f'<svg role="img" aria-label="{escape(title)}" '
    return svg.replace("<svg ", named, 1)


def _stand_alone(svg: str) -> str:
    """The drawing as a file: on white, so that it reads on dark pages too."""
    return svg.replace("<svg ", '<svg style="background: white" ', 1) + "\n"
