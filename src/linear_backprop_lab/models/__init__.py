"""The models of the experiments."""

from ._binarized import latent_weights as latent_weights
from ._constant_statistics import ConstantBatchNorm1d as ConstantBatchNorm1d
from ._constant_statistics import ConstantBatchNorm2d as ConstantBatchNorm2d
from ._constant_statistics import calibrate as calibrate
from ._mlp import MLPEnsemble as MLPEnsemble
from ._mlp import mlp as mlp
from ._residual import residual as residual
from ._resnet import binarized_resnet18 as binarized_resnet18
from ._small import bottleneck as bottleneck
from ._small import inverted_residual as inverted_residual
from ._small import plain as plain
from ._vgg import vgg19 as vgg19
