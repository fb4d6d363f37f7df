"""The library's errors: each says what was wrong, what was given, and what to do."""


class LinearBackpropError(ValueError):
    """Anything the library refuses; the base of its other errors."""


class ConversionError(LinearBackpropError):
    """A model that cannot be converted, or a conversion that cannot be removed."""


class CollapseError(LinearBackpropError):
    """A model whose backward pass depends on the sample and so cannot be collapsed."""
