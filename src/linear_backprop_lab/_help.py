"""Help texts of the command line: paragraphs that fill the line, and no type beside an option that takes no value."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose flags show no type; it, too, is one line a paragraph."""

    def __init__(self, *args: Any, help: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, help=flowing(help), **kwargs)

    def get_params(self, ctx: Any) -> Any:
        """The parameters, `--help` among them."""
        return _without_types_of_flags(super().get_params(ctx))


class Group(TyperGroup):
    """The same for the command that has the others."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, `--help` among them."""
        return _without_types_of_flags(super().get_params(ctx))


def flowing(text: str | None) -> str | None:
    """The text with each paragraph in one line, which the terminal breaks."""
    return text and re.sub(r"(?<=\S)\n(?=\S)", " ", text)


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters
