"""Names of runs side by side: what differs between them, not what they share."""

from lab.made_up import image_config
from rich.console import Console

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import Job
from linear_backprop_lab.sweeps import Sweep

BLEND = "Blend(Linear(), Exact(), 0.5)"


def job(root, label, **config):
    return Job(Run(root, {"label": label, **config}), label, 1, lambda on_step: None)


def plan(*jobs, width=80):
    """The first column of a plan."""
    console = Console(width=width, record=True)
    console.print(Sweep.of(jobs).plan())
    return [line.partition("  ")[0].strip() for line in console.export_text().splitlines()[1:]]


def test_runs_are_told_apart_by_what_differs_the_rule_first(tmp_path):
    labels = {BLEND: f"cifar10, batch norm, lr 0.1, {BLEND}, seed 0", "Linear()": "cifar10, lr 0.1, Linear(), seed 1"}
    jobs = [job(tmp_path, label, experiment="images", rule=rule) for rule, label in labels.items()]
    assert plan(*jobs) == [f"{BLEND}, batch norm, seed 0", "Linear(), seed 1"]


def test_the_rule_is_said_where_it_does_not_differ_and_the_experiment_where_there_are_several(tmp_path):
    jobs = [
        job(tmp_path, "digits, Exact(), seed 0", experiment="images", rule="Exact()"),
        job(tmp_path, "relu, local-mean, lr 1", experiment="collapse", method="local-mean"),
        job(tmp_path, "tanh, local-mean, lr 1", experiment="collapse", method="local-mean"),
    ]
    assert plan(*jobs) == ["images: Exact()", "collapse: local-mean, relu", "collapse: local-mean, tanh"]


def test_a_run_that_is_alone_and_has_no_rule_has_its_label(tmp_path):
    assert plan(job(tmp_path, "timing: 6 models, methods in turns", experiment="timing")) == [
        "timing: 6 models, methods in turns"
    ]


def test_runs_in_full_fit_a_line_of_a_narrow_terminal(tmp_path):
    jobs = [Job(Run(tmp_path, image_config(rule)), rule, 1, lambda on_step: None) for rule in ("Exact()", "Linear()")]
    assert plan(*jobs, width=40) == ["Exact()", "Linear()"]
