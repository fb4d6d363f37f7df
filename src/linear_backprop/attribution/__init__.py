"""Explaining a network's output by its input, with captum's signatures and on any model."""

from ._deep_lift import DeepLift as DeepLift
from ._gradients import Deconvolution as Deconvolution
from ._gradients import GuidedBackprop as GuidedBackprop
