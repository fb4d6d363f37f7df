"""The data of the experiments: the paper's polynomial, and CIFAR-10, or digits where it is out of reach."""

from ._binary import cifar10_folder as cifar10_folder
from ._errors import DataError as DataError
from ._images import ImageDataset as ImageDataset
from ._load import load_images as load_images
from ._polynomial import Polynomial as Polynomial
