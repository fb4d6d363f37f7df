"""What can go wrong with a record."""


class RunError(Exception):
    """A record that cannot be read or written: which file, what is wrong with it, what to do."""
