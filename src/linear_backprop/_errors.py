"""The library's errors: each says what was wrong, what was given, and what to do."""


class LinearBackpropError(ValueError):
    """Anything the library refuses; the base of its other errors."""

    __module__ = "linear_backprop"  # where users find it


class ConversionError(LinearBackpropError):
    """A model that cannot be converted, or a conversion that cannot be removed."""

    __module__ = "linear_backprop"  # where users find it


class CollapseError(LinearBackpropError):
    """A model whose backward pass depends on the sample and so cannot be collapsed."""

    __module__ = "linear_backprop"  # where users find it
