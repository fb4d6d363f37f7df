"""Average pooling over the windows of max pooling, and its transpose.

PyTorch's average pooling has no dilation, and for three dimensions has neither half precision on the CPU nor a
backward pass for windows that fit only with padding. Its backward kernels need no more of the input than its shape,
which autograd has no way to know: `spread` runs them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = int | tuple[int, ...]

_backward = torch.ops.aten
_adaptive: tuple[Callable[..., Tensor], ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


@dataclass(frozen=True)
class Windows:
    """The windows of a max pooling.

    Attributes:
        dims: The number of dimensions that count positions, the last ones: 1, 2 or 3.
        kernel_size: As in max pooling, like all that follow; one number stands for all dimensions.
        stride: None or () for the kernel's size.
        padding: On both sides.
        dilation: Between a window's positions.
        ceil_mode: True if a last window may reach beyond the padding.
    """

    dims: int
    kernel_size: Sizes
    stride: Sizes | None
    padding: Sizes
    dilation: Sizes
    ceil_mode: bool

    def have_a_kernel(self, a: Tensor) -> bool:
        """True if PyTorch has average pooling for them."""
        if any(gap != 1 for gap in self._each(self.dilation)):
            return False
        if self.dims < 3:
            return True
        on_cpu_in_half = a.device.type == "cpu" and a.dtype in (torch.bfloat16, torch.float16)
        larger_than_a = any(
            size > length for size, length in zip(self._each(self.kernel_size), a.shape[-3:], strict=True)
        )
        return not on_cpu_in_half and not larger_than_a

    def average(self, a: Tensor) -> Tensor:
        """The average over each window's positions inside the input; 0 where a window has none.

        Args:
            a: Shape (..., *positions).
        """
        stride = self.kernel_size if self.stride in (None, (), []) else self.stride
        if self.have_a_kernel(a):
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[self.dims - 1]
            return pool(a, self.kernel_size, stride, self.padding, self.ceil_mode, count_include_pad=False)
        # Windows are boxes, so their average is an average along one dimension after the other.
        sizes, strides, pads, gaps = map(self._each, (self.kernel_size, stride, self.padding, self.dilation))
        average = a.to(torch.promote_types(a.dtype, torch.float32))
        for dim, along in enumerate(zip(sizes, strides, pads, gaps, strict=True), start=-self.dims):
            last = average.transpose(dim, -1)
            inside = _sums(average.new_ones(last.shape[-1]), *along, self.ceil_mode).clamp(min=1)
            average = (_sums(last, *along, self.ceil_mode) / inside).transpose(dim, -1)
        return average.to(a.dtype)

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        """The transpose of `average`, where they have a kernel: a tensor like `like`, whose values are not read."""
        kernel = self._each(self.kernel_size)
        stride = kernel if self.stride in (None, (), []) else self._each(self.stride)
        padding, rest = self._each(self.padding), (self.ceil_mode, False, None)
        if self.dims == 1:
            flat = ((1, *kernel), (1, *stride), (0, *padding))
            return _backward.avg_pool2d_backward(g.unsqueeze(-2), like.unsqueeze(-2), *flat, *rest).squeeze(-2)
        spread = _backward.avg_pool2d_backward if self.dims == 2 else _backward.avg_pool3d_backward
        return spread(g, like, kernel, stride, padding, *rest)

    def positions(self, length: int, dim: int) -> Tensor:
        """The positions of every window along one dimension, shape (windows, positions); some lie outside the input.

        Args:
            length: The input's along it.
            dim: It, counted from 0 among those that count positions.
        """
        stride = self.kernel_size if self.stride in (None, (), []) else self.stride
        size, step, pad, gap = (
            self._each(each)[dim] for each in (self.kernel_size, stride, self.padding, self.dilation)
        )
        starts = torch.arange(_count(length, size, step, pad, gap, self.ceil_mode)) * step - pad
        return starts[:, None] + torch.arange(size) * gap

    def _each(self, sizes: Sizes) -> tuple[int, ...]:
        sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        return sizes * self.dims if len(sizes) == 1 else sizes


@dataclass(frozen=True)
class AdaptiveWindows:
    """The windows of an adaptive max pooling.

    Attributes:
        dims: The number of dimensions that count positions, the last ones: 1, 2 or 3.
        output_size: As in adaptive max pooling.
    """

    dims: int
    output_size: Sizes

    def have_a_kernel(self, a: Tensor) -> bool:
        """True: PyTorch has average pooling for them."""
        return True

    def average(self, a: Tensor) -> Tensor:
        """The average over each window."""
        return _adaptive[self.dims - 1](a, self.output_size)

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        """The transpose of `average`: a tensor like `like`, whose values are not read."""
        if self.dims == 1:
            return _backward._adaptive_avg_pool2d_backward(g.unsqueeze(-2), like.unsqueeze(-2)).squeeze(-2)
        spread = _backward._adaptive_avg_pool2d_backward if self.dims == 2 else _backward._adaptive_avg_pool3d_backward
        return spread(g, like)

    def positions(self, length: int, dim: int) -> Tensor:
        """The positions of every window along one dimension, shape (windows, positions); -1 fills up shorter ones.

        Args:
            length: The input's along it.
            dim: It, counted from 0 among those that count positions.
        """
        given: Any = (
            self.output_size if isinstance(self.output_size, int) else self.output_size[dim % len(self.output_size)]
        )
        outputs = length if given is None else given
        starts = [output * length // outputs for output in range(outputs)]
        ends = [-(-(output + 1) * length // outputs) for output in range(outputs)]
        counts = torch.tensor([end - start for start, end in zip(starts, ends, strict=True)])
        steps = torch.arange(int(counts.max()))
        return torch.where(steps < counts[:, None], torch.tensor(starts)[:, None] + steps, -1)


def _count(length: int, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """The number of windows along a dimension."""
    room = length + 2 * padding - dilation * (size - 1) - 1
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (windows - 1) * stride >= length + padding:  # such a window would lie beyond the input
        windows -= 1
    return windows


def _sums(a: Tensor, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Tensor:
    """The sum over each window along the last dimension, padded with zeros."""
    length, extent = a.shape[-1], dilation * (size - 1) + 1
    reach = (_count(length, size, stride, padding, dilation, ceil_mode) - 1) * stride + 1
    padded = F.pad(a, (padding, reach + extent - 1 - length - padding))
    starts = range(0, extent, dilation)
    return sum((padded[..., start : start + reach : stride] for start in starts[1:]), padded[..., :reach:stride])
