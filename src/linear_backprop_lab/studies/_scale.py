"""How large an experiment is run: to check that it runs, to fit a laptop, or as the paper has it."""

from __future__ import annotations

import enum


class Scale(enum.StrEnum):
    """The size of an experiment; every experiment has settings of its own for each.

    Attributes:
        SMOKE: Seconds in all: shows that everything runs, and nothing else.
        CPU: Minutes on two cores: the same architectures, narrower, with fewer images and epochs.
        PAPER: The paper's own settings; for a GPU.
    """

    SMOKE = "smoke"
    CPU = "cpu"
    PAPER = "paper"
