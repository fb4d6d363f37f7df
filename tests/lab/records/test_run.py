"""Records as they are read back: whole, unfinished, and damaged in every file."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from linear_backprop_lab.records import Run, RunError, environment, read
from linear_backprop_lab.records._run import run_in

CONFIG = {"experiment": "fig1", "rule": "Linear()", "seeds": [0, 1], "learning_rate": 1e-3}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run under way: two lines, an array, a checkpoint."""
    run = Run(tmp_path, CONFIG)
    run.start()
    run.log(epoch=1, loss=0.5)
    run.log(epoch=2, loss=float("nan"))
    run.save_arrays("predictions", curve=np.arange(6.0).reshape(2, 3))
    run.save_checkpoint(epoch=2, model={"weight": torch.eye(2)})
    return run


def test_the_folder_is_named_by_a_hash_of_the_configuration(tmp_path: Path) -> None:
    canonical = '{"experiment":"fig1","learning_rate":0.001,"rule":"Linear()","seeds":[0,1]}'
    expected = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert Run(tmp_path, CONFIG).folder == tmp_path / "fig1" / expected


def test_the_order_of_keys_and_tuples_make_no_other_run(tmp_path: Path) -> None:
    same = {**dict(reversed(CONFIG.items())), "seeds": (0, 1)}
    assert Run(tmp_path, same).folder == Run(tmp_path, CONFIG).folder


@pytest.mark.parametrize("key", CONFIG)
def test_any_other_value_is_another_run(tmp_path: Path, key: str) -> None:
    assert Run(tmp_path, {**CONFIG, key: "other"}).folder != Run(tmp_path, CONFIG).folder


def test_making_a_run_touches_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, CONFIG)
    assert not run.is_complete
    assert run.metrics == []
    assert run.resume() is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_back(run: Run) -> None:
    run.close(status="finished", loss=0.25)
    assert run.is_complete
    assert run.record == {"status": "finished", "loss": 0.25}
    assert run.metrics[0] == {"epoch": 1, "loss": 0.5}
    assert np.isnan(run.metrics[1]["loss"])
    np.testing.assert_array_equal(run.arrays("predictions")["curve"], [[0, 1, 2], [3, 4, 5]])
    assert json.loads((run.folder / "config.json").read_text()) == CONFIG
    assert run.environment["torch"] == torch.__version__


def test_a_checkpoint_is_read_back_until_the_run_is_complete(run: Run) -> None:
    checkpoint = run.resume()
    assert checkpoint["epoch"] == 2
    assert torch.equal(checkpoint["model"]["weight"], torch.eye(2))
    run.close()
    assert run.resume() is None
    assert not list(run.folder.glob("*.pt"))


def test_an_unfinished_run_starts_afresh(run: Run) -> None:
    run.start()
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.json", "environment.json"]
    assert run.metrics == []


def test_a_complete_run_is_not_started_again(run: Run) -> None:
    run.close(loss=0.25)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(RunError, match=rf"{run.key} is complete; remove the folder to run it again"):
        run.start()
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.parametrize("rest", ["{", '{"epoch": 3', '{"epoch": 3}'])
def test_a_last_line_cut_short_is_left_out(run: Run, rest: str) -> None:
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(rest)
    assert [line["epoch"] for line in run.metrics] == [1, 2]


def test_metrics_go_on_whole_after_a_line_cut_short(run: Run) -> None:
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    run.keep_metrics(1)
    run.log(epoch=2)
    assert [line["epoch"] for line in run.metrics] == [1, 2]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def garbage(content: bytes) -> bytes:
    return b"\xff\xfe\x00garbage\n" * 3


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, garbage, empty])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("record.json", lambda run: run.record),
        ("environment.json", lambda run: run.environment),
        ("predictions.npz", lambda run: run.arrays("predictions")),
        ("config.json", lambda run: run_in(run.folder)),
    ],
)
def test_a_damaged_file_is_named(
    run: Run, name: str, read: Callable[[Run], object], damage: Callable[[bytes], bytes]
) -> None:
    run.close(loss=0.25)
    path = run.folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=rf"{re.escape(str(path))} cannot be read .*made anew"):
        read(run)


@pytest.mark.parametrize("damage", [cut, garbage, empty])
def test_a_damaged_checkpoint_is_named(run: Run, damage: Callable[[bytes], bytes]) -> None:
    path = run.folder / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"(?s)checkpoint\.pt cannot be read .*made anew"):
        run.resume()


@pytest.mark.parametrize("line", [b"{\n", b"not json\n", b"\xff\xfe\n"])
def test_a_damaged_line_before_the_last_is_named(run: Run, line: bytes) -> None:
    path = run.folder / "metrics.jsonl"
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged .*made anew"):
        _ = run.metrics


@pytest.mark.parametrize("name", ["record.json", "environment.json", "predictions.npz"])
def test_a_missing_file_is_named(run: Run, name: str) -> None:
    run.close()
    (run.folder / name).unlink()
    read = {"record.json": lambda: run.record, "environment.json": lambda: run.environment}
    with pytest.raises(RunError, match=rf"{re.escape(name)} cannot be read .*made anew"):
        read.get(name, lambda: run.arrays("predictions"))()


def test_arrays_with_pickled_objects_are_refused(run: Run) -> None:
    np.savez(run.folder / "predictions.npz", curve=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(RunError, match=r"predictions\.npz cannot be read"):
        run.arrays("predictions")


def test_only_complete_runs_are_found_in_order(tmp_path: Path) -> None:
    runs = [Run(tmp_path, {"experiment": name, "seed": seed}) for name in ("b", "a") for seed in range(4)]
    for index, run in enumerate(runs):
        run.start()
        if index % 2:
            run.close(index=index)
    found = list(read(tmp_path).complete)
    assert [run.folder for run in found] == sorted(run.folder for run in runs[1::2])
    assert {run.record["index"] for run in found} == {1, 3, 5, 7}
    assert all(run.config["seed"] in (1, 3) for run in found)


def test_records_of_two_machines_merge_by_copying(tmp_path: Path) -> None:
    for machine, seed in (("first", 0), ("second", 1)):
        run = Run(tmp_path / machine, {"experiment": "a", "seed": seed})
        run.start()
        run.close(seed=seed)
        run.folder.parent.mkdir(exist_ok=True)
        target = tmp_path / "merged" / "a" / run.key
        target.parent.mkdir(parents=True, exist_ok=True)
        run.folder.rename(target)
    assert sorted(run.record["seed"] for run in read(tmp_path / "merged").complete) == [0, 1]


def test_a_changed_configuration_is_refused(run: Run) -> None:
    run.close()
    (run.folder / "config.json").write_text(json.dumps({**CONFIG, "learning_rate": 1.0}))
    with pytest.raises(RunError, match=r"config\.json was changed: its hash names [0-9a-f]{12}; give"):
        run_in(run.folder)


@pytest.mark.parametrize("text", ["[]", "3", '"fig1"', "null", '{"seed": 1}'])
def test_a_configuration_of_another_kind_is_refused(run: Run, text: str) -> None:
    run.close()
    (run.folder / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json cannot be read .*made anew"):
        run_in(run.folder)


def test_the_environment_is_json_and_true() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["threads"] == torch.get_num_threads()
    repository = Path(__file__).parents[3]
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    git = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    if git.returncode == 0:
        assert found["commit"].removesuffix("-dirty") == git.stdout.strip()
