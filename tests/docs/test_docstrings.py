"""Every example in a public docstring runs; whatever puts a rule somewhere, and every rule, has one."""

import doctest

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import linear_backprop as lb

ROOMS = (lb.diagnostics, lb.attribution)
PUBLIC = {name: value for name, value in vars(lb).items() if not name.startswith("_") and value not in ROOMS}
JOBS = {f"attribution.{name}": value for name, value in vars(lb.attribution).items() if not name.startswith("_")}
PUBLIC |= JOBS
RULES = [
    value for value in PUBLIC.values() if isinstance(value, type) and issubclass(value, lb.BackwardRule | lb.LayerRule)
]
NEED_ONE = [lb.convert, lb.with_rule, lb.backward_rule, *RULES, *JOBS.values()]


def examples(value: object) -> list[doctest.DocTest]:
    """The examples in the docstring of a public value, with the names that they take for granted."""
    names = {"lb": lb, "torch": torch, "nn": nn, "F": F}
    found = doctest.DocTestFinder(recurse=False).find(value, getattr(value, "__name__", "value"), globs=names)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if examples(value)])
def test_the_examples_run(name: str):
    torch.manual_seed(0)
    for test in examples(PUBLIC[name]):
        failures: list[str] = []
        doctest.DocTestRunner().run(test, out=failures.append)
        assert not failures, "".join(failures)


@pytest.mark.parametrize("value", NEED_ONE, ids=lambda value: value.__name__)
def test_there_is_an_example(value: object):
    assert examples(value)
