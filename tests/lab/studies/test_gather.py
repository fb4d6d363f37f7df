"""What a report says of the runs it is made of: their scale, their data, and the numbers of the committed records."""

import re
from pathlib import Path

import pytest
from lab.made_up import image_run, sweep_run

from linear_backprop_lab.records import read
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


def test_the_committed_report_says_what_the_committed_records_say():
    found, text = gather(RESULTS), (RESULTS / "REPORT.md").read_text()
    assert found.left_out == ()
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
