"""Slow, independent NumPy versions of what the library computes, written from the formulas."""

from collections.abc import Callable
from dataclasses import dataclass
from math import erf

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_erf = np.vectorize(erf, otypes=[float])
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
RRELU_SLOPE = (1 / 8 + 1 / 3) / 2


def _sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def _phi(a: Array) -> Array:
    return np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi)


def _mish_derivative(a: Array) -> Array:
    t = np.tanh(np.log1p(np.exp(a)))
    return t + a * _sigmoid(a) * (1 - t**2)


def _zero(a: Array) -> Array:
    return np.zeros_like(a)


def _inside(low: float, high: float, slope: float = 1.0) -> Function:
    return lambda a: slope * ((a > low) & (a < high))


def _outside(width: float) -> Function:
    return lambda a: 1.0 * (np.abs(a) > width)


# name -> (f, f'), with PyTorch's default arguments and those of `tests/forms.py`; f' away from the kinks.
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "relu": (lambda a: np.maximum(a, 0), lambda a: 1.0 * (a > 0)),
    "relu6": (lambda a: np.clip(a, 0, 6), _inside(0, 6)),
    "leaky_relu": (lambda a: np.where(a > 0, a, 0.01 * a), lambda a: np.where(a > 0, 1, 0.01)),
    "prelu": (lambda a: np.where(a > 0, a, 0.25 * a), lambda a: np.where(a > 0, 1, 0.25)),
    "rrelu": (lambda a: np.where(a > 0, a, RRELU_SLOPE * a), lambda a: np.where(a > 0, 1, RRELU_SLOPE)),
    "elu": (lambda a: np.where(a > 0, a, np.expm1(a)), lambda a: np.where(a > 0, 1, np.exp(a))),
    "selu": (
        lambda a: SELU_SCALE * np.where(a > 0, a, SELU_ALPHA * np.expm1(a)),
        lambda a: SELU_SCALE * np.where(a > 0, 1, SELU_ALPHA * np.exp(a)),
    ),
    "celu": (lambda a: np.where(a > 0, a, np.expm1(a)), lambda a: np.where(a > 0, 1, np.exp(a))),
    "gelu": (
        lambda a: a * (1 + _erf(a / np.sqrt(2))) / 2,
        lambda a: (1 + _erf(a / np.sqrt(2))) / 2 + a * _phi(a),
    ),
    "silu": (lambda a: a * _sigmoid(a), lambda a: _sigmoid(a) * (1 + a * (1 - _sigmoid(a)))),
    "mish": (lambda a: a * np.tanh(np.log1p(np.exp(a))), _mish_derivative),
    "softplus": (lambda a: np.log1p(np.exp(a)), _sigmoid),
    "softsign": (lambda a: a / (1 + np.abs(a)), lambda a: 1 / (1 + np.abs(a)) ** 2),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "tanhshrink": (lambda a: a - np.tanh(a), lambda a: np.tanh(a) ** 2),
    "hardtanh": (lambda a: np.clip(a, -1, 1), _inside(-1, 1)),
    "hardsigmoid": (lambda a: np.clip(a + 3, 0, 6) / 6, _inside(-3, 3, 1 / 6)),
    "hardswish": (
        lambda a: a * np.clip(a + 3, 0, 6) / 6,
        lambda a: np.where(a < -3, 0, np.where(a > 3, 1, (2 * a + 3) / 6)),
    ),
    "hardshrink": (lambda a: a * (np.abs(a) > 0.5), _outside(0.5)),
    "softshrink": (lambda a: np.sign(a) * np.maximum(np.abs(a) - 0.5, 0), _outside(0.5)),
    "sigmoid": (_sigmoid, lambda a: _sigmoid(a) * (1 - _sigmoid(a))),
    "logsigmoid": (lambda a: -np.log1p(np.exp(-a)), lambda a: 1 - _sigmoid(a)),
    "threshold": (lambda a: np.where(a > 0.1, a, 20.0), lambda a: 1.0 * (a > 0.1)),
    "sign": (np.sign, _zero),
    "round": (np.round, _zero),
    "floor": (np.floor, _zero),
    "ceil": (np.ceil, _zero),
    "trunc": (np.trunc, _zero),
    "clamp": (lambda a: np.clip(a, -0.6, 0.8), _inside(-0.6, 0.8)),
}


def silu_derivative(a: Array) -> Array:
    """The derivative of a * sigmoid(a)."""
    return ACTIVATIONS["silu"][1](a)


@dataclass
class MLP:
    """h_k = f(W_k h_{k-1} + b_k) for all layers but the last, which has no activation; loss = sum (y_hat - y)^2 / 2."""

    weights: list[Array]
    biases: list[Array]

    def gradients(self, x: Array, y: Array, f: Function, factor: Function) -> tuple[list[Array], list[Array]]:
        """Algorithms 1 and 2 of Yazdani (2018) by hand, a sample at a time.

        `factor(a)` is what g is multiplied with on its way through an activation: f'(a) in Algorithm 1,
        1 in the text's Linear Backprop, a in Algorithm 2 as printed.
        """
        of_weights = [np.zeros_like(w) for w in self.weights]
        of_biases = [np.zeros_like(b) for b in self.biases]
        last = len(self.weights) - 1
        for sample, target in zip(x, y, strict=True):
            activations, pre_activations = [sample], []
            for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
                pre_activations.append(w @ activations[-1] + b)
                activations.append(pre_activations[-1] if k == last else f(pre_activations[-1]))
            g = activations[-1] - target
            for k in range(last, -1, -1):
                if k != last:
                    g = g * factor(pre_activations[k])
                of_weights[k] += np.outer(g, activations[k])
                of_biases[k] += g
                g = self.weights[k].T @ g
        return of_weights, of_biases
