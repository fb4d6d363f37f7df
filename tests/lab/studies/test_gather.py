"""What a report says of the runs it is made of: their scale, their data, and the numbers of the committed records."""

import random
import re
import shutil
from pathlib import Path

import pytest
from lab.made_up import image_config, image_run, sweep_run

from linear_backprop_lab.records import Run, read
from linear_backprop_lab.report import write_report
from linear_backprop_lab.studies import gather

RESULTS = Path(__file__).parents[3] / "results"


def test_at_the_smallest_scale_there_is_no_verdict(tmp_path):
    for images, expected in ((999, {"not decided"}), (1000, {"holds"})):
        root = tmp_path / str(images)
        for rule, accuracies in (("Exact()", [0.1, 0.3]), ("Linear()", [0.2, 0.5])):
            sweep_run(root, rule, accuracies, experiment="paper-rate", train_images=images)
        section = gather(root).chapters[0].section
        assert {claim.verdict for claim in section.claims} == expected
        assert any("decides nothing" in badge for badge in section.badges) == (images < 1000)
        assert bool(section.finding) == (images >= 1000)


@pytest.mark.parametrize("data, shown", [("digits", True), ("cifar10", False)])
def test_other_data_than_the_paper_s_is_said(tmp_path, data, shown):
    image_run(tmp_path, "Linear()", [(2.3, 0.2)], data=data)
    assert ("digits in place of CIFAR-10" in gather(tmp_path).chapters[0].section.badges) == shown


def test_findings_and_key_numbers_stand_before_the_sections(tmp_path):
    for rule, accuracies in (("Exact()", [0.1, 0.3]), ("Linear()", [0.2, 0.5])):
        sweep_run(tmp_path / "runs", rule, accuracies, experiment="paper-rate")
    report = gather(tmp_path / "runs")
    finding = (
        "At the paper's learning rate of 0.001, with batch norm Linear Backprop leads, 50.0% (n = 1) test accuracy "
        "against Backprop's 30.0% (n = 1)."
    )
    assert [section.finding for section in report.findings] == [finding]
    assert report.headline == (report.chapters[0].section, report.chapters[0].section.figures[0])
    for name in ("r.html", "r.md"):
        write_report(report, tmp_path / name)
        text = (tmp_path / name).read_text().replace("&#39;", "'")
        first = text[: re.search(r'<h2 id="paper-rate"|<a id="paper-rate"', text).start()]
        assert finding in first and "smaller than the paper's" in first
        assert "50.0% against 30.0%, with batch norm" in first
    page = (tmp_path / "r.html").read_text()
    named = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    assert len(named) == page.count("<svg") == 2


@pytest.mark.parametrize("seed", range(8))
def test_a_part_of_the_records_is_drawn_as_far_as_it_goes(tmp_path, seed):
    drawn = random.Random(seed)
    folders = sorted(path.parent for path in RESULTS.glob("*/*/record.json"))
    experiment = drawn.choice([*{folder.parent: None for folder in folders}])
    for folder in drawn.choices([each for each in folders if each.parent == experiment], k=1 + seed % 3):
        shutil.copytree(folder, tmp_path / experiment.name / folder.name, dirs_exist_ok=True)
    write_report(gather(tmp_path), tmp_path / "r.html")
    assert dict(gather(tmp_path).environment)["PyTorch"]


def test_a_section_that_cannot_be_drawn_is_named_with_the_reason_and_the_others_are_drawn(tmp_path):
    sweep_run(tmp_path, "Linear()", [0.1, 0.3], seed=2)
    image_run(tmp_path, "Linear()", [(2.3, 0.2)])
    sourceless = sweep_run(tmp_path, "Linear()", [0.1, 0.3], experiment="bnn").folder
    (sourceless / "SHA256SUMS").unlink()
    (sourceless / "record.json").write_text('{"status": "finished"}')
    found = gather(tmp_path)
    assert [chapter.section.id for chapter in found.chapters] == ["images"]
    missing = "not decided, records missing: there are further seeds, and no run of the sweep, seed 0"
    assert found.not_drawn == (("fig2", missing), ("fig4", missing), ("bnn", "KeyError: 'source'"))
    for name in ("r.html", "r.md"):
        write_report(found, tmp_path / name)
        text = (tmp_path / name).read_text()
        assert missing in text and "bnn: KeyError" in text


def test_a_record_of_another_version_is_named_and_left_out_alone(tmp_path):
    image_run(tmp_path, "Linear()", [(2.3, 0.2)])
    config = image_config("Exact()")
    for changed in (config | {"recipe": config["recipe"] | {"nesterov": True}}, config | {"model": {}}):
        run = Run(tmp_path, changed)
        run.start()
        run.close(status="finished")
    found = gather(tmp_path)
    assert [len(chapter.runs) for chapter in found.chapters] == [1] and found.not_drawn == ()
    reasons = sorted(why for _, why in found.left_out)
    assert reasons[0] == "its configuration is of another version: KeyError: 'name'"
    assert "TypeError" in reasons[1] and "nesterov" in reasons[1] and len(reasons) == 2


def test_a_rule_whose_sweep_is_missing_is_not_compared(tmp_path):
    sweep_run(tmp_path, "Exact()", [0.1, 0.3], experiment="bnn")
    for seed in (1, 2):
        sweep_run(tmp_path, "Linear()", [0.1, 0.3], experiment="bnn", seed=seed)
    section = gather(tmp_path).chapters[0].section
    assert section.claims == () and "records missing: nothing decided" in section.badges
    assert [row[0] for row in section.table.rows] == ["Backprop"]


def test_a_comparison_is_drawn_where_both_of_its_sides_have_runs(tmp_path):
    for rule in ("Exact()", "Linear()"):
        sweep_run(tmp_path, rule, [0.1, 0.3])
    assert [chapter.section.id for chapter in gather(tmp_path).chapters] == ["fig2", "fig4"]
    sweep_run(tmp_path, "Exact()", [0.1, 0.3], activation="ReLU")
    assert [chapter.section.id for chapter in gather(tmp_path).chapters] == ["fig2", "fig3-left", "fig4"]


def test_the_committed_report_says_what_the_committed_records_say():
    found, text = gather(RESULTS), (RESULTS / "REPORT.md").read_text()
    assert found.left_out == found.not_drawn == ()
    assert len(read(RESULTS).complete) >= 449
    for chapter in found.chapters:
        section = chapter.section
        for part in [section.finding, *(claim.measured for claim in section.claims)]:
            assert part.replace("|", "\\|") in text, part
        rows = section.table.rows if section.table else ()
        for row in rows:
            assert f"| {' | '.join(row)} |" in text, row


def test_the_excerpt_in_the_documentation_is_of_that_report():
    documented = (RESULTS.parent / "docs" / "lab.md").read_text()
    excerpt = documented.partition("| the paper's claim | here | key numbers |")[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in excerpt.strip().splitlines()[1:]]
    text = (RESULTS / "REPORT.md").read_text()
    assert len(rows) == 3
    for claim, verdict, key in rows:
        assert re.search(rf"\| \[{re.escape(claim)}\]\(#[a-z0-9-]+\) \| {verdict} \| {re.escape(key)} \|", text), claim
