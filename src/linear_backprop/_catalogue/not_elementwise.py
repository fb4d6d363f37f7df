"""The one table of what cannot follow an elementwise rule: why, and what to do.

Two questions are asked of it. A conversion leaves such a thing alone and lists it, and some only where rules for
layers are given, because only then would anybody expect them to follow one. A collapsed backward pass, which is the
same for every sample, refuses it. A layer's rule (`layers=`) may govern what stands here, and then neither is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from .._errors import LinearBackpropError, function_name
from .._torch.functions import Function
from .._torch.modules import BATCH_NORM, DROPOUT
from .activations import functions_named


@dataclass(frozen=True)
class Advice:
    """A reason, and what to do about it.

    Attributes:
        reason: Continues a sentence about the function or module: "its statistics are of the batch".
        remedy: An imperative, in lower case; empty where nothing needs to be done.
    """

    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


@dataclass(frozen=True)
class NotElementwise:
    """A row of the table.

    Attributes:
        functions: Names in `torch.nn.functional`, `torch`, `torch.special` and `torch.Tensor`.
        modules: Classes; their subclasses are meant, too.
        in_conversion: Why a conversion leaves it alone; None where nobody would expect it to follow a rule.
        in_collapse: Why a collapsed backward pass cannot hold it.
        among_layers: True if a conversion lists it only where rules for layers are given.
    """

    functions: tuple[str, ...]
    modules: tuple[type[nn.Module], ...]
    in_conversion: Advice | None
    in_collapse: Advice
    among_layers: bool = False


ABOVE = "collapse only what lies above it (`where=`)"
"""A remedy whose `where=` whoever knows the model fills in."""

_LINEAR_RULE = "give it a linear rule (`layers=LINEAR_LAYERS`)"
_INSTEAD_OF_MAXIMUM = f"use average pooling, or {ABOVE}"

_NORMALIZES = "normalizes over a dimension: no derivative of its own at each element"
_NORMALIZES_A_SAMPLE = "it normalizes each sample by its own values"
_OF_THE_SAMPLE = "its statistics are of the sample"
_OWN_STATISTICS = Advice(f"{_OF_THE_SAMPLE}: its derivatives go through them", "`ConstantStatistics` governs the most")
_MULTIPLIES = "it multiplies activations with each other"
_TAKES_A_MAXIMUM = "which input it takes depends on the sample"


def _in_dimensions(name: str, *dimensions: int) -> tuple[str, ...]:
    return tuple(f"{name}{d}d" for d in dimensions)


def _with_indices(*names: str) -> tuple[str, ...]:
    return (*names, *(f"{name}_with_indices" for name in names))


TABLE: tuple[NotElementwise, ...] = (
    NotElementwise(
        functions=("softmax", "_softmax", "softmin", "gumbel_softmax"),
        modules=(nn.Softmax, nn.Softmax2d, nn.Softmin),
        in_conversion=Advice(_NORMALIZES),
        in_collapse=Advice(_NORMALIZES_A_SAMPLE, f"move it into the loss if it is the head, or {ABOVE}"),
    ),
    NotElementwise(
        functions=("log_softmax", "_log_softmax"),
        modules=(nn.LogSoftmax, nn.AdaptiveLogSoftmaxWithLoss),
        in_conversion=Advice(_NORMALIZES),
        in_collapse=Advice(
            _NORMALIZES_A_SAMPLE,
            f"move it into the loss if it is the head (CrossEntropyLoss in the place of NLLLoss), or {ABOVE}",
        ),
    ),
    NotElementwise(
        functions=("glu",),
        modules=(nn.GLU,),
        in_conversion=Advice("multiplies one half of its input by the other: not elementwise"),
        in_collapse=Advice(_MULTIPLIES, ABOVE),
    ),
    NotElementwise(
        functions=("scaled_dot_product_attention", "multi_head_attention_forward"),
        modules=(nn.MultiheadAttention,),
        in_conversion=Advice("attention: a softmax and products of activations, not elementwise"),
        in_collapse=Advice(_MULTIPLIES, ABOVE),
    ),
    NotElementwise(
        functions=tuple(f"{kind}{cell}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for cell in ("", "_cell")),
        modules=(nn.RNNBase, nn.RNNCellBase),
        in_conversion=Advice("a fused recurrent kernel: its activations cannot be reached", "unroll it to convert it"),
        in_collapse=Advice(_MULTIPLIES, ABOVE),
    ),
    NotElementwise(
        functions=_with_indices(*_in_dimensions("fractional_max_pool", 2, 3)),
        modules=(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
        in_conversion=Advice("its windows are drawn at random: no average pooling has them"),
        in_collapse=Advice(_TAKES_A_MAXIMUM, _INSTEAD_OF_MAXIMUM),
        among_layers=True,
    ),
    NotElementwise(
        functions=_in_dimensions("lp_pool", 1, 2, 3),
        modules=(nn.LPPool1d, nn.LPPool2d, nn.LPPool3d),
        in_conversion=Advice("a power mean of each window, not its maximum"),
        in_collapse=Advice("the power mean of a window is not linear", _INSTEAD_OF_MAXIMUM),
        among_layers=True,
    ),
    NotElementwise(
        functions=_in_dimensions("max_unpool", 1, 2, 3),
        modules=(nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d),
        in_conversion=Advice("puts values where the indices say, which depend on the sample"),
        in_collapse=Advice("where it puts values depends on the sample", f"use nn.Upsample, or {ABOVE}"),
        among_layers=True,
    ),
    NotElementwise(
        functions=(
            "layer_norm",
            "group_norm",
            "native_layer_norm",
            "native_group_norm",
            "rms_norm",
            "local_response_norm",
            "normalize",
        ),
        modules=(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm),
        in_conversion=_OWN_STATISTICS,
        in_collapse=Advice(_OF_THE_SAMPLE, f"use batch normalization in eval mode, or {ABOVE}"),
        among_layers=True,
    ),
    NotElementwise(
        functions=("instance_norm",),
        modules=(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        in_conversion=_OWN_STATISTICS,
        in_collapse=Advice(
            _OF_THE_SAMPLE,
            f"put it in eval mode (`module.eval()`), with running statistics, use batch normalization, or {ABOVE}",
        ),
        among_layers=True,
    ),
    NotElementwise(
        functions=(),
        modules=(nn.SyncBatchNorm,),
        in_conversion=Advice(
            "across processes it runs a backward pass of its own, which no rule can reach",
            "use BatchNorm, or eval mode",
        ),
        in_collapse=Advice(
            "its statistics are of the batch, and across processes no rule can reach its backward pass",
            "put it in eval mode (`module.eval()`), with running statistics, or use BatchNorm",
        ),
        among_layers=True,
    ),
    NotElementwise(
        functions=("native_batch_norm", "native_dropout"),
        modules=(),
        in_conversion=Advice("a kernel's own interface", "call the function of torch.nn.functional"),
        in_collapse=Advice("a kernel's own interface", "call the function of torch.nn.functional"),
        among_layers=True,
    ),
    NotElementwise(
        functions=_with_indices(*_in_dimensions("max_pool", 1, 2, 3), *_in_dimensions("adaptive_max_pool", 1, 2, 3)),
        modules=(
            nn.MaxPool1d,
            nn.MaxPool2d,
            nn.MaxPool3d,
            nn.AdaptiveMaxPool1d,
            nn.AdaptiveMaxPool2d,
            nn.AdaptiveMaxPool3d,
        ),
        in_conversion=None,
        in_collapse=Advice(_TAKES_A_MAXIMUM, f"{_LINEAR_RULE}, {_INSTEAD_OF_MAXIMUM}"),
    ),
    NotElementwise(
        functions=("batch_norm",),
        modules=(BATCH_NORM,),
        in_conversion=None,
        in_collapse=Advice(
            "its statistics are of the batch",
            f"{_LINEAR_RULE}, or put it in eval mode (`module.eval()`), with running statistics",
        ),
    ),
    NotElementwise(
        functions=("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
        modules=(DROPOUT,),
        in_conversion=None,
        in_collapse=Advice("it drops other units for every sample", f"{_LINEAR_RULE}, put it in eval mode, or set p=0"),
    ),
    NotElementwise(
        functions=(),
        modules=(nn.CrossMapLRN2d,),
        in_conversion=None,
        in_collapse=Advice(_OF_THE_SAMPLE, f"use batch normalization in eval mode, or {ABOVE}"),
    ),
    NotElementwise(
        functions=("bilinear",),
        modules=(nn.Bilinear,),
        in_conversion=None,
        in_collapse=Advice(_MULTIPLIES, ABOVE),
    ),
    NotElementwise(
        functions=("embedding",),
        modules=(nn.Embedding,),
        in_conversion=None,
        in_collapse=Advice("its input is an index, and indices cannot be combined", ABOVE),
    ),
    NotElementwise(
        functions=("arange",),
        modules=(),
        in_conversion=None,
        in_collapse=Advice(
            "it numbers the samples, and numbers cannot be combined",
            f"index without it, h[:, -1] in place of h[torch.arange(len(h)), -1], or {ABOVE}",
        ),
    ),
)

FUNCTIONS: dict[Function, NotElementwise] = {
    function: row for row in TABLE for name in row.functions for function in functions_named(name)
}
"""The row of every function in the table."""

_OF_CLASSES = {cls: row for row in TABLE for cls in row.modules}


def row_of(module: nn.Module) -> NotElementwise | None:
    """The row of a module; None if the table has none."""
    return next((_OF_CLASSES[cls] for cls in type(module).__mro__ if cls in _OF_CLASSES), None)


def refuse_known(function: Function, taker: str) -> None:
    """Refuse a function in the table where an elementwise one is wanted.

    Args:
        function: What was given.
        taker: What takes it.
    """
    row = FUNCTIONS.get(function.func if isinstance(function, partial) else function)
    if row is not None:
        name, reason = function_name(function), (row.in_conversion or row.in_collapse).reason
        raise LinearBackpropError(f"{taker} takes an elementwise function, which {name} is not: {reason}")


def left_alone(row: NotElementwise | None, layers: bool) -> Advice | None:
    """Why a conversion leaves what stands in a row alone; None if it has nothing to say of it.

    Args:
        row: The row, if there is one.
        layers: True if rules for layers are given.
    """
    if row is None or (row.among_layers and not layers):
        return None
    return row.in_conversion
