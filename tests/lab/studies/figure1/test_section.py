import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies.figure1.claims import verdict
from linear_backprop_lab.studies.figure1.section import figure1
from linear_backprop_lab.studies.figure1.table import ensembles, ratio

LAYERS, NETWORKS = 4, 20
GRID = np.linspace(-1, 3, 201)
TARGET = np.polyval([1, -3, -1, 1], GRID)
EDGES = np.linspace(-2, 2, 41)


def made_up(
    root, activation="relu", rule="Exact()", *, arrived=NETWORKS, test_mse=0.2, magnitude=1.0, networks=NETWORKS
) -> Run:
    """A complete run: the first `arrived` networks arrive; errors and mean |a| lie within 10% of what is given."""
    config = {
        "experiment": "fig1",
        "activation": activation,
        "rule": rule,
        "widths": [1, 50, 50, 50, 50, 1],
        "seeds": list(range(networks)),
        "learning_rate": 1e-3,
        "tolerance": 1e-6,
        "max_steps": 500,
    }
    run = Run(root, config)
    run.start()
    spread = np.linspace(0.9, 1.1, networks)
    run.save_arrays(
        "networks",
        steps=np.where(np.arange(networks) < arrived, 100, 500),
        train_mse=np.where(np.arange(networks) < arrived, 1e-7, 1.0),
        test_mse=test_mse * spread,
        status=np.where(np.arange(networks) < arrived, "arrived", "unfinished"),
    )
    run.save_arrays(
        "predictions",
        train_inputs=GRID[::50],
        train_targets=TARGET[::50],
        test_inputs=GRID,
        test_targets=TARGET,
        predictions=np.tile(TARGET, (networks, 1)),
    )
    units = {
        f"{quantity}_{name}": values
        for quantity in ("pre_activations", "activations")
        for name, values in {
            "edges": EDGES,
            "counts": np.ones((LAYERS, len(EDGES) - 1), dtype=int),
            "mean_abs": magnitude * np.tile(spread[:, None], (1, LAYERS)),
        }.items()
    }
    run.save_arrays("points", **units)
    run.save_arrays("grid", **units)
    run.close(networks=networks, arrived=arrived, diverged=0, unfinished=networks - arrived, seconds=1.0)
    return run


def claim(runs, words):
    return next(each for each in verdict(ensembles(runs)) if words in each.claim)


@pytest.mark.parametrize(("arrived", "expected"), [(20, "holds"), (19, "holds"), (18, "partly"), (9, "does not hold")])
def test_overfitting_follows_the_share_that_arrives(tmp_path, arrived, expected) -> None:
    found = claim([made_up(tmp_path, rule="Linear()", arrived=arrived)], "overfits the five")
    assert found.verdict == expected
    assert f"{arrived} of 20 reach 1e-06 within 500 steps" in found.measured


@pytest.mark.parametrize(
    ("test_mse", "expected"),
    [(0.2, "holds"), (0.15, "holds"), (0.4, "partly"), (0.6, "does not hold"), (0.05, "does not hold")],
)
def test_generalising_similarly_follows_the_interval_of_the_ratio(tmp_path, test_mse, expected) -> None:
    runs = [made_up(tmp_path), made_up(tmp_path, rule="Linear()", test_mse=test_mse)]
    assert claim(runs, "generalises as Backprop").verdict == expected


def test_generalising_at_all_is_measured_against_the_best_constant(tmp_path) -> None:
    best_constant = ((TARGET - TARGET.mean()) ** 2).mean()
    for factor, expected in ((0.5, "holds"), (1.05, "does not hold"), (1.0, "partly")):
        run = made_up(tmp_path / str(factor), rule="Linear()", test_mse=factor * best_constant)
        assert claim([run], "generalises to unseen").verdict == expected


@pytest.mark.parametrize(
    ("tanh", "sigmoid", "expected"),
    [(4.0, 3.0, "holds"), (4.0, 1.5, "partly"), (1.5, 0.2, "does not hold")],
)
def test_much_higher_activations_are_at_least_twice_backprops(tmp_path, tanh, sigmoid, expected) -> None:
    runs = [
        made_up(tmp_path, activation, rule, magnitude=magnitude)
        for activation, linear in (("tanh", tanh), ("sigmoid", sigmoid))
        for rule, magnitude in (("Exact()", 1.0), ("Linear()", linear))
    ]
    assert claim(runs, "After training").verdict == expected
    assert claim(runs, "every hidden layer").verdict == expected


def test_networks_that_never_arrived_do_not_count_as_higher(tmp_path) -> None:
    runs = [made_up(tmp_path, "tanh"), made_up(tmp_path, "tanh", "Linear()", magnitude=9.0, arrived=4)]
    found = claim(runs, "After training")
    assert found.verdict == "does not hold"
    assert "4 networks arrived under Linear Backprop and 20 under Backprop, too few to compare" in found.measured


def test_nothing_is_decided_without_the_runs(tmp_path) -> None:
    claims = verdict(ensembles([made_up(tmp_path, "tanh", "Linear()")]))
    assert [each.verdict for each in claims] == ["not decided"] * 7


def test_ratio_is_that_of_the_medians_and_its_interval_covers_it() -> None:
    found = ratio(np.array([4.0, 8.0, 6.0, 5.0, 9.0]), np.array([1.0, 2.0, 1.5, 3.5, 2.5]))
    assert found.value == pytest.approx(6 / 2)
    assert found.low < found.value < found.high
    # Of the 10! / (5! 5!) = 252 ways to part ten numbers, two are as far apart.
    assert found.p == pytest.approx(2 / 252)


def test_ratio_of_a_sample_to_itself_is_one_and_not_significant() -> None:
    sample = np.linspace(1, 2, 30)
    found = ratio(sample, sample)
    assert found.value == 1
    assert found.low < 1 < found.high
    assert found.p == pytest.approx(1)


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        found = ratio(generator.lognormal(np.log(3), 0.5, 50), generator.lognormal(0, 0.5, 50))
        covered += found.low <= 3 <= found.high
    # 95% of 40 is 38; fewer than 33 come up in fewer than one of a thousand binomial draws.
    assert covered >= 33


def test_the_runs_with_the_most_networks_are_shown(tmp_path) -> None:
    runs = [made_up(tmp_path, networks=3, arrived=3), made_up(tmp_path), made_up(tmp_path, rule="Linear()")]
    assert {each.size for each in ensembles(runs).values()} == {NETWORKS}
    assert list(ensembles(runs)) == [("relu", "Exact()"), ("relu", "Linear()")]


def test_every_figure_is_svg_that_says_what_its_rules_are(tmp_path) -> None:
    rules = {"Exact()": "Backprop", "Linear()": "Linear Backprop", "PreActivation()": "Algorithm 2 as printed"}
    section = figure1([made_up(tmp_path, a, rule) for a in ("relu", "tanh", "sigmoid") for rule in rules])
    assert len(section.figures) == 5
    for figure in section.figures:
        root = ElementTree.fromstring(figure.svg)
        texts = {"".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("text")}
        assert {*rules.values(), "ReLU", "tanh", "sigmoid"} <= texts


def test_drawing_twice_gives_the_same_bytes(tmp_path) -> None:
    runs = [made_up(tmp_path)]
    assert figure1(runs).figures == figure1(runs).figures


def test_the_table_has_a_row_a_run(tmp_path) -> None:
    table = figure1([made_up(tmp_path, rule="Linear()", arrived=12), made_up(tmp_path)]).table
    assert table is not None
    assert [row[:3] for row in table.rows] == [
        ("ReLU", "Backprop", "20 of 20"),
        ("ReLU", "Linear Backprop", "12 of 20"),
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert "0.2 (0.19 to 0.21)" in table.rows[0]
