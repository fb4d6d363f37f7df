"""Training loops: each writes what came out, none decides what it means."""

from ._batches import Normalizer as Normalizer
from ._ensemble import EnsembleOutcome as EnsembleOutcome
from ._ensemble import train_ensemble as train_ensemble
from ._loop import train as train
from ._one_cycle import OneCycle as OneCycle
from ._ranks import together as together
from ._recipe import Recipe as Recipe
