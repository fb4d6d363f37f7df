import re
import subprocess
import sys
from pathlib import Path

import little_memory as trained
import little_memory_costs as costs
import pytest
import torch

import linear_backprop as lb

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: object) -> str:
    command = [sys.executable, str(BENCHMARKS / "bench_little_memory.py"), *map(str, arguments), "--smoke"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("network", ["binarized", "ReLU", "tanh"])
def test_the_ways_of_a_method_give_the_same_gradients(network: str) -> None:
    x, target = costs.batch_of(30)

    def gradients(method, run) -> torch.Tensor:
        model = trained.NETWORKS[network].model(trained.SMOKE, x, seed=0).double()
        run(method(model), x.double(), target)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    def linear(model: torch.nn.Module) -> torch.nn.Module:
        lb.convert(model, lb.Linear())
        return model

    methods = trained.NETWORKS[network].methods
    expected = {name: gradients(method, costs.step) for name, method in methods.items()}
    expected["Linear"] = gradients(linear, costs.step)
    assert len({each.norm().item() for each in expected.values()}) == len(methods)
    for way in costs.ways_of(network, trained.SMOKE):
        # Sums in another order, in float64.
        torch.testing.assert_close(
            gradients(methods[way.method], way.run), expected[way.method], rtol=1e-9, atol=1e-12, msg=way.name
        )


def test_it_runs_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    records = ("--records", tmp_path)
    trainings = run("train", *records).splitlines()
    accuracies = [float(line.split("test ")[1]) for line in trainings if line.startswith("tanh, LocallyExact")]
    assert len(trainings) == 16 and len(accuracies) == 2
    again = next((tmp_path / "little-memory").glob("*/record.json"))
    again.unlink()
    assert len(run("train", *records).splitlines()) == 1
    run("memory", *records, "--network", "ReLU")
    run("time", *records, "--network", "ReLU", "--rounds", "1")
    plot = tmp_path / "plot.svg"
    printed = run("draw", *records, "--plot", plot)
    mean = float(re.search(r"^\| tanh \| LocallyExact \| 0.001 \| ([\d.]+) ±", printed, re.MULTILINE)[1])
    assert mean == pytest.approx(100 * sum(accuracies) / 2, abs=0.1)  # printed to a tenth of a percent
    sent = dict(re.findall(r"^\| (Backprop|Linear, collapsed) \|.*\| ([\d,]+) \|[^|]*\|$", printed, re.MULTILINE))
    weights = 3072 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    aggregates = 11 * (3072 + 16 + 16) + 11  # C + 1 combinations of what is put out, and of one
    assert int(sent["Backprop"].replace(",", "")) == 4 * weights
    assert int(sent["Linear, collapsed"].replace(",", "")) == pytest.approx(4 * aggregates, rel=0.01)
    assert plot.read_text().startswith("<?xml")
