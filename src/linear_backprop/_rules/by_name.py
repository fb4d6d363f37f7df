"""Rules by name, for command lines and configuration files."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator

import torch

from .._errors import LinearBackpropError, described
from .rule import BackwardRule, ModelRule

# What stands before a class's own name where it was defined inside something, as dataclasses print it.
_QUALIFIED = re.compile(r"(?:\w+\.|<locals>\.)+(?=\w+\()")
_NUMBERS = {"inf": math.inf, "nan": math.nan}


def known_rules() -> dict[str, type[BackwardRule]]:
    """Every rule there is, the user's own included: class name -> class, in the order of definition.

    Rules for whole models come last.

    Examples:
        >>> [*lb.known_rules()][:3]
        ['Exact', 'Linear', 'PreActivation']
    """
    rules = [rule for rule in _subclasses(BackwardRule) if rule is not ModelRule]
    return {rule.__name__: rule for rule in sorted(rules, key=lambda rule: issubclass(rule, ModelRule))}


def rule_from_name(text: str) -> BackwardRule:
    """A rule from its name or from how it prints.

    `"linear"`, `"pre-activation"` and `"PreActivation"` name a rule with its default arguments; arguments
    are written as in Python: `"Clipped(low=-2.0)"`, `"Blend(Linear(), Exact(), 0.5)"`. Nothing is
    evaluated: only rules' names and literal values are read.

    Raises:
        LinearBackpropError: No such rule (the valid ones are listed), or arguments it does not take.

    Examples:
        >>> lb.rule_from_name("Clipped(low=-2.0)")
        Clipped(low=-2.0, high=1.0)
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(f"rule_from_name reads a text such as 'linear', got {described(text)}")
    if "(" not in text:
        return _build(text, [], {})
    try:
        return _from_node(ast.parse(_QUALIFIED.sub("", text.strip()), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        if isinstance(error, LinearBackpropError):
            raise
        raise LinearBackpropError(
            f"cannot read the rule {text!r}: write it like Clipped(low=-1.0, high=1.0); functions that are not in the "
            f"catalogue have no name that can be read"
        ) from error


def _from_node(node: ast.expr) -> BackwardRule:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(ast.unparse(node))
    arguments = [_value(argument) for argument in node.args]
    return _build(node.func.id, arguments, {str(k.arg): _value(k.value) for k in node.keywords})


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tensor" and len(node.args) == 1:
        return torch.tensor(_value(node.args[0]))
    if isinstance(node, ast.Call):
        return _from_node(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name):
        return -_number(node.operand)
    return _number(node) if isinstance(node, ast.Name) and node.id in _NUMBERS else ast.literal_eval(node)


def _number(node: ast.Name) -> float:
    if node.id not in _NUMBERS:
        raise ValueError(node.id)
    return _NUMBERS[node.id]


def _build(name: str, arguments: list[object], keywords: dict[str, object]) -> BackwardRule:
    rules = {_folded(known): rule for known, rule in known_rules().items()}
    rule = rules.get(_folded(name))
    if rule is None:
        raise LinearBackpropError(f"no rule is named {name!r}; the rules are {', '.join(known_rules())}")
    try:
        return rule(*arguments, **keywords)
    except TypeError as error:
        raise LinearBackpropError(f"{rule.__name__} does not take these arguments: {error}") from error


def _folded(name: str) -> str:
    return name.strip().replace("-", "").replace("_", "").lower()


def _subclasses(rule: type[BackwardRule]) -> Iterator[type[BackwardRule]]:
    for subclass in rule.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
