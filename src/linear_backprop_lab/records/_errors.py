"""What can go wrong with a record."""


class RunError(Exception):
    """A record that cannot be read or written: which file, what is wrong with it, what to do."""

    @property
    def problem(self) -> str:
        """What is wrong, without what to do."""
        return str(self).partition(";")[0]
