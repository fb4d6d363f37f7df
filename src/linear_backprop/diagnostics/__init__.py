"""Measuring what a rule does: agreement with the true gradient and with collapse, saturation, what autograd keeps."""

from ._alignment import Alignment as Alignment
from ._alignment import gradient_alignment as gradient_alignment
from ._collapse_error import collapse_error as collapse_error
from ._saturation import saturation as saturation
from ._saved import saved_bytes as saved_bytes
