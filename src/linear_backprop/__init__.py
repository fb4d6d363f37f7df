"""Train non-linear networks with a linear backward pass.

The forward pass of a network stays as it is; a backward rule says what the backward pass does at the
non-linearities. `convert` puts a rule on a model, `with_rule` on a function, `backward_rule` on a block
of code. Max pooling, batch normalization and dropout have rules of their own, `LINEAR_LAYERS`.
"""

from ._activations import CATALOGUE as CATALOGUE
from ._activations import Activation as Activation
from ._activations import activation_named as activation_named
from ._calls import with_rule as with_rule
from ._collapse import Collapsed as Collapsed
from ._collapse import collapse as collapse
from ._conversion import Conversion as Conversion
from ._conversion import Site as Site
from ._convert import convert as convert
from ._errors import CollapseError as CollapseError
from ._errors import ConversionError as ConversionError
from ._errors import LinearBackpropError as LinearBackpropError
from ._layers import LINEAR_LAYERS as LINEAR_LAYERS
from ._layers import AveragedMaximum as AveragedMaximum
from ._layers import ConstantStatistics as ConstantStatistics
from ._layers import LayerRule as LayerRule
from ._layers import StraightThroughDropout as StraightThroughDropout
from ._mode import backward_rule as backward_rule
from ._names import known_rules as known_rules
from ._names import rule_from_name as rule_from_name
from ._rules import BackwardRule as BackwardRule
from ._rules import Blend as Blend
from ._rules import Clipped as Clipped
from ._rules import Exact as Exact
from ._rules import Linear as Linear
from ._rules import LocallyExact as LocallyExact
from ._rules import MeanLinear as MeanLinear
from ._rules import PreActivation as PreActivation
from ._rules import Surrogate as Surrogate
from ._where import After as After
from ._where import after as after

from . import diagnostics as diagnostics  # isort: skip
