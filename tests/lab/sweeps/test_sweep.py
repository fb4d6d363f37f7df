"""Words for runs side by side: what differs between them, not what they share."""

import pytest
from lab.made_up import image_config
from rich.console import Console

from linear_backprop_lab.records import Run, differences
from linear_backprop_lab.studies import Job
from linear_backprop_lab.sweeps import Sweep


def sweep(root, *configs):
    return Sweep.of([Job(Run(root, config), "its label", 1, lambda on_step: None) for config in configs])


def test_runs_are_told_apart_by_what_differs_the_rule_first(tmp_path):
    config = {"experiment": "images", "data": "cifar10", "model": {"width": 2, "batch_norm": True}}
    plain = config | {"model": {"width": 2, "batch_norm": False}}
    runs = sweep(tmp_path, config | {"rule": "Blend(Linear(), Exact(), 0.5)"}, plain | {"rule": "Linear()"})
    assert [*runs.names.values()] == ["Blend(Linear(), Exact(), 0.5), batch_norm True", "Linear(), batch_norm False"]


def test_the_rule_is_said_where_it_does_not_differ_and_the_experiment_where_there_are_several(tmp_path):
    exact, mlp = image_config("Exact()"), {"experiment": "fig1", "activation": "relu", "rule": "Exact()"}
    runs = sweep(tmp_path, exact, mlp, mlp | {"activation": "tanh"})
    assert [*runs.names.values()] == [
        "images: Exact()",
        "fig1: Exact(), activation relu",
        "fig1: Exact(), activation tanh",
    ]


def test_a_run_without_a_rule_that_is_alone_has_its_label(tmp_path):
    assert [*sweep(tmp_path, {"experiment": "timing"}).names.values()] == ["its label"]


@pytest.mark.parametrize("width", [40, 80])
def test_a_plan_has_a_line_a_run(tmp_path, width):
    console = Console(width=width, record=True)
    console.print(sweep(tmp_path, image_config("Exact()"), image_config("Linear()")).plan())
    assert len(console.export_text().splitlines()) == 3


def test_a_method_is_compared_as_a_rule_is():
    configs = {1: {"seed": 0, "method": "Linear"}, 2: {"seed": 1, "method": "Linear"}}
    assert differences(configs) == {1: "Linear, seed 0", 2: "Linear, seed 1"}
