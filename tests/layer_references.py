"""Slow, independent NumPy versions of the layers' rules, written from the formulas."""

from collections.abc import Iterator
from itertools import product
from math import ceil, floor

import numpy as np
from references import Array

Window = list[int]
Position = tuple[int, ...]


def pooling_windows(length: int, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> list[Window]:
    """The input positions of every window along one dimension, by the documentation of `nn.MaxPool1d`."""
    rounded = ceil if ceil_mode else floor
    count = rounded((length + 2 * padding - dilation * (size - 1) - 1) / stride + 1)
    # "Windows that would start in the right padded region are ignored."
    starts = [start for start in (i * stride - padding for i in range(count)) if not ceil_mode or start < length]
    return [[p for p in range(start, start + dilation * size, dilation) if 0 <= p < length] for start in starts]


def adaptive_windows(length: int, outputs: int) -> list[Window]:
    """The input positions of every window: from floor(i length / outputs) to ceil((i + 1) length / outputs)."""
    return [list(range(floor(i * length / outputs), ceil((i + 1) * length / outputs))) for i in range(outputs)]


def boxes(windows: list[list[Window]]) -> Iterator[list[Position]]:
    """The positions of every window of several dimensions, the last dimension fastest."""
    for window in product(*windows):
        yield list(product(*window))


def maximum(x: Array, windows: list[list[Window]]) -> Array:
    """Max pooling of one channel; -inf where a window has no position."""
    values = [max((x[p] for p in box), default=-np.inf) for box in boxes(windows)]
    return np.array(values).reshape([len(each) for each in windows])


def averaging_matrix(shape: tuple[int, ...], windows: list[list[Window]]) -> Array:
    """The Jacobian of average pooling: 1/n at the n positions of each window; shape (outputs, inputs)."""
    rows = []
    for box in boxes(windows):
        row = np.zeros(shape)
        for p in box:
            row[p] = 1 / len(box)
        rows.append(row.ravel())
    return np.array(rows)


def batch_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Batch normalization of shape (N, channels, ...), a channel at a time."""
    h = np.empty_like(x)
    for c in range(x.shape[1]):
        a = x[:, c]
        h[:, c] = (a - a.mean()) / np.sqrt(a.var() + eps) * weight[c] + bias[c]
    return h


def batch_norm_cotangents(x: Array, g: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
    """The cotangents of x, weight and bias where mean and variance are constants."""
    of_x, of_weight, of_bias = np.empty_like(x), np.empty_like(weight), np.empty_like(weight)
    for c in range(x.shape[1]):
        a, deviation = x[:, c], np.sqrt(x[:, c].var() + eps)
        of_x[:, c] = g[:, c] * weight[c] / deviation
        of_weight[c] = (g[:, c] * (a - a.mean()) / deviation).sum()
        of_bias[c] = g[:, c].sum()
    return of_x, of_weight, of_bias
