"""What can go wrong with an engine."""


class EngineError(Exception):
    """An engine cannot be used here; says why, and what to do."""
