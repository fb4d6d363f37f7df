"""Measuring what a rule does: agreement with the true gradient, and what autograd keeps."""

from ._alignment import Alignment as Alignment
from ._alignment import gradient_alignment as gradient_alignment
from ._saved import saved_bytes as saved_bytes
