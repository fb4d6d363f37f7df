"""The error of data that is missing or damaged."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used: which file or argument, what is wrong with it, what to do."""
