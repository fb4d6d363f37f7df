"""Adversarial examples crafted on one network to fool others, by gradients of a backward pass of one's choice."""

from ._iterative import IterativeFGSM as IterativeFGSM
from ._named import BPA as BPA
from ._named import LinBP as LinBP
