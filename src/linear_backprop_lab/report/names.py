"""What readers call the rules and the activations of runs."""

from __future__ import annotations

BACKPROP, LINEAR, PRINTED = "Exact()", "Linear()", "PreActivation()"
"""The rules that are compared, as a run's configuration has them."""

_RULES = {BACKPROP: "Backprop", LINEAR: "Linear Backprop", PRINTED: "Algorithm 2 as printed"}
_ACTIVATIONS = {"relu": "ReLU", "silu": "SiLU", "tanh": "tanh", "hardtanh": "hard tanh"}


def rule_name(rule: str) -> str:
    """What readers call a rule, from its repr; the repr itself where there is no other name."""
    return _RULES.get(rule, rule)


def activation_name(activation: str) -> str:
    """What readers call an activation, from the name of its function or module in PyTorch."""
    return _ACTIVATIONS.get(activation.lower(), activation)
