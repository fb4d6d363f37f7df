import re
import shutil

import pytest
from lab.made_up import image_run, unfinished

from linear_backprop_lab.records import listing, read
from linear_backprop_lab.records._files import sums_of

CURVE = [(2.3, 0.1), (2.2, 0.2)]


@pytest.fixture
def runs(tmp_path):
    return [image_run(tmp_path, rule, CURVE) for rule in ("Exact()", "Linear()")]


def test_complete_and_unfinished_runs_are_told_apart(tmp_path, runs):
    unfinished(runs[1])
    found = read(tmp_path)
    assert [run.folder for run in found.complete] == [runs[0].folder]
    assert [run.folder for run in found.unfinished] == [runs[1].folder]
    assert found.unfinished[0].record == {"status": "unfinished", "epochs": 2}
    assert found.left_out == ()


def test_every_file_is_read_once(tmp_path, runs):
    run = next(run for run in read(tmp_path).complete if run.key == runs[0].key)
    first = run.metrics, run.record, run.environment
    shutil.rmtree(run.folder)
    assert (run.metrics, run.record, run.environment) == first
    assert [line["test_accuracy"] for line in run.metrics] == [0.1, 0.2]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "record.json", "environment.json"])
def test_a_changed_record_is_named_and_left_out(tmp_path, runs, name):
    path = runs[0].folder / name
    changed, count = re.subn(r"[0-9]", lambda digit: str((int(digit[0]) + 1) % 10), path.read_text(), count=1)
    path.write_text(changed)
    assert count == 1
    found = read(tmp_path)
    assert [run.folder for run in found.complete] == [runs[1].folder]
    ((folder, wrong),) = found.left_out
    assert folder == runs[0].folder and (name in wrong)


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "record.json", "environment.json"])
def test_a_record_of_another_form_is_named_and_left_out(tmp_path, runs, name, sums):
    folder = runs[0].folder
    (folder / name).write_text("[1, 2]\n")
    (folder / "SHA256SUMS").unlink()
    if sums:
        contents = [(path.name, path.read_bytes()) for path in folder.iterdir()]
        (folder / "SHA256SUMS").write_bytes(sums_of(contents))
    ((left_out, wrong),) = read(tmp_path).left_out
    assert left_out == folder and name in wrong and "it holds a list, not an object with names" in wrong
    assert [run.state for run in listing(tmp_path) if run.folder == folder] == ["broken"]


def test_an_environment_that_is_missing_and_checksums_that_are_a_folder_are_named(tmp_path, runs):
    (runs[0].folder / "environment.json").unlink()
    for run in runs:
        (run.folder / "SHA256SUMS").unlink()
    (runs[1].folder / "SHA256SUMS").mkdir()
    found = {folder: wrong for folder, wrong in read(tmp_path).left_out}
    assert "environment.json cannot be read" in found[runs[0].folder]
    assert found[runs[1].folder] == "SHA256SUMS cannot be read (Is a directory)"


def test_what_was_set_aside_or_not_begun_is_no_record(tmp_path, runs):
    runs[0].folder.rename(runs[0].folder.with_name(f"{runs[0].key}.broken-1"))
    (tmp_path / "images" / ("0" * 12)).mkdir()
    found = read(tmp_path)
    assert len(found.complete) == 1 and found.unfinished == ()
