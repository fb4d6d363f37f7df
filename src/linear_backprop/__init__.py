"""Train non-linear networks with a linear backward pass.

The forward pass of a network stays as it is; a backward rule says what the backward pass does at the
non-linearities.

    convert(model, rule)          a rule on a model, in place: prints as a table, and `remove()` undoes it
    with_rule(function, rule)     a rule on a function
    backward_rule(rule)           a rule on whatever runs in a block, or in a function that it decorates
    collapse(model, rule)         the same gradients at the cost of C samples (C outputs), whatever the batch
    after(path), calls(glob, ...) for `where`: the modules after that one; single runs of a module
    rule_from_name(text)          a rule from its name or from how it prints; known_rules() has all
    activation_named(name)        an activation of the CATALOGUE

Rules are values: Linear(), Exact(), PreActivation(), Clipped(), Surrogate(function), MeanLinear(), Blend(...),
LocallyExact(), Renormalized(rule), and for explanations Guided(), Deconvolution(), Rescale(), Ratio(). Max pooling,
batch normalization and dropout have rules of their own, LINEAR_LAYERS. A rule of your own is a subclass of
BackwardRule or LayerRule.
What goes wrong raises LinearBackpropError; ConversionError and CollapseError are kinds of it.
"""

from importlib.metadata import version as _version

from ._call import Call as Call
from ._catalogue.activations import CATALOGUE as CATALOGUE
from ._catalogue.activations import Activation as Activation
from ._catalogue.activations import activation_named as activation_named
from ._collapse.collapse import Collapsed as Collapsed
from ._collapse.collapse import collapse as collapse
from ._collapse.locally_exact import LocallyExact as LocallyExact
from ._conversion.block import backward_rule as backward_rule
from ._conversion.convert import convert as convert
from ._conversion.report import Conversion as Conversion
from ._conversion.report import Site as Site
from ._conversion.where import After as After
from ._conversion.where import Calls as Calls
from ._conversion.where import Predicate as Predicate
from ._conversion.where import Where as Where
from ._conversion.where import after as after
from ._conversion.where import calls as calls
from ._conversion.with_rule import with_rule as with_rule
from ._errors import CollapseError as CollapseError
from ._errors import ConversionError as ConversionError
from ._errors import LinearBackpropError as LinearBackpropError
from ._rules.attribution import Deconvolution as Deconvolution
from ._rules.attribution import Guided as Guided
from ._rules.attribution import Ratio as Ratio
from ._rules.attribution import Rescale as Rescale
from ._rules.blend import Blend as Blend
from ._rules.by_name import known_rules as known_rules
from ._rules.by_name import rule_from_name as rule_from_name
from ._rules.elementwise import Clipped as Clipped
from ._rules.elementwise import Exact as Exact
from ._rules.elementwise import Linear as Linear
from ._rules.elementwise import MeanLinear as MeanLinear
from ._rules.elementwise import PreActivation as PreActivation
from ._rules.elementwise import Surrogate as Surrogate
from ._rules.layers import LINEAR_LAYERS as LINEAR_LAYERS
from ._rules.layers import AveragedMaximum as AveragedMaximum
from ._rules.layers import ConstantStatistics as ConstantStatistics
from ._rules.layers import StraightThroughDropout as StraightThroughDropout
from ._rules.renormalized import Renormalized as Renormalized
from ._rules.rescaled_maximum import RescaledMaximum as RescaledMaximum
from ._rules.rule import BackwardRule as BackwardRule
from ._rules.rule import Elementwise as Elementwise
from ._rules.rule import LayerRule as LayerRule
from ._rules.softened_maximum import SoftenedMaximum as SoftenedMaximum

from . import attacks as attacks  # isort: skip
from . import attribution as attribution  # isort: skip
from . import diagnostics as diagnostics  # isort: skip

__version__ = _version("linear-backprop")

__all__ = [  # noqa: RUF022 the functions first
    "convert",
    "with_rule",
    "backward_rule",
    "collapse",
    "after",
    "calls",
    "rule_from_name",
    "known_rules",
    "activation_named",
    "Activation",
    "Collapsed",
    "LocallyExact",
    "Conversion",
    "Site",
    "After",
    "Calls",
    "CollapseError",
    "ConversionError",
    "LinearBackpropError",
    "Blend",
    "Clipped",
    "Exact",
    "Linear",
    "MeanLinear",
    "PreActivation",
    "Renormalized",
    "Surrogate",
    "Guided",
    "Deconvolution",
    "Rescale",
    "Ratio",
    "AveragedMaximum",
    "ConstantStatistics",
    "RescaledMaximum",
    "SoftenedMaximum",
    "StraightThroughDropout",
    "BackwardRule",
    "LayerRule",
    "Call",
    "CATALOGUE",
    "LINEAR_LAYERS",
    "Where",
    "Predicate",
    "Elementwise",
    "attacks",
    "attribution",
    "diagnostics",
]
