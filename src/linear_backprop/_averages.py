"""Average pooling over the windows of max pooling.

PyTorch's average pooling has no dilation, and none for three dimensions in half precision on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = int | tuple[int, ...]


def average_pool(
    a: Tensor, dims: int, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> Tensor:
    """The average over each window's positions inside the input; 0 where a window has none.

    Args:
        a: Shape (..., *positions), with `dims` dimensions of positions.
        dims: 1, 2 or 3.
        kernel_size: As in max pooling, like all that follow; one number stands for all dimensions.
        stride: None or () for the kernel's size.
        padding: On both sides.
        dilation: Between a window's positions.
        ceil_mode: Whether a last window may reach beyond the padding.
    """
    stride = kernel_size if stride in (None, (), []) else stride
    no_kernel = dims == 3 and a.device.type == "cpu" and a.dtype in (torch.bfloat16, torch.float16)
    if all(step == 1 for step in _each(dilation, dims)) and not no_kernel:
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
        return pool(a, kernel_size, stride, padding, ceil_mode, count_include_pad=False)
    # Windows are boxes, so their average is an average along one dimension after the other.
    sizes, strides, pads, gaps = (_each(given, dims) for given in (kernel_size, stride, padding, dilation))
    average = a.to(torch.promote_types(a.dtype, torch.float32))
    for dim, setting in enumerate(zip(sizes, strides, pads, gaps, strict=True), start=-dims):
        last = average.transpose(dim, -1)
        inside = _sums(average.new_ones(last.shape[-1]), *setting, ceil_mode).clamp(min=1)
        average = (_sums(last, *setting, ceil_mode) / inside).transpose(dim, -1)
    return average.to(a.dtype)


def _each(sizes: Sizes, dims: int) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return sizes * dims if len(sizes) == 1 else sizes


def _sums(a: Tensor, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Tensor:
    """The sum over each window along the last dimension, padded with zeros."""
    length, extent = a.shape[-1], dilation * (size - 1) + 1
    room = length + 2 * padding - extent
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (windows - 1) * stride >= length + padding:  # such a window would lie beyond the input
        windows -= 1
    reach = (windows - 1) * stride + 1
    padded = F.pad(a, (padding, reach + extent - 1 - length - padding))
    starts = range(0, extent, dilation)
    return sum((padded[..., start : start + reach : stride] for start in starts[1:]), padded[..., :reach:stride])
