import json
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from lab.made_up import image_run

from linear_backprop_lab.records import RunError, write_whole
from linear_backprop_lab.report import Chapter, Claim, Figure, Report, ReportError, Section, Table, write_report
from linear_backprop_lab.studies import gather

VOID = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """What a page holds; raises where elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.loads, self.text = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "a":
            self.links.append(attributes["href"])
        elif tag != "use":
            self.loads += [attributes[key] for key in ("src", "href", "xlink:href") if key in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def runs(tmp_path):
    curve, root, rules = [(2.3, 0.1), (2.2, 0.2)], tmp_path / "runs", ("Exact()", "Linear()")
    return [image_run(root, rule, curve, batch_norm=normalized) for normalized in (True, False) for rule in rules]


@pytest.fixture
def report(tmp_path, runs):
    return gather(tmp_path / "runs")


def test_the_page_is_whole_and_loads_nothing(tmp_path, report):
    write_report(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.loads == ["data:,"]
    assert not re.search(r"@import|url\((?!#)|<script", text)
    assert text.count("<svg") == text.count("</svg>") == 2


def test_names_inside_the_drawings_do_not_collide(tmp_path, report):
    write_report(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    ids = Page(text).ids
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]*)\)|xlink:href="#([^"]*)"', text)
    assert used and {a or b for a, b in used} <= set(ids)


def test_links_lead_to_sections_and_records(tmp_path, report, runs):
    path = tmp_path / "elsewhere" / "deep" / "report.html"
    write_report(report, path)
    page = Page(path.read_text())
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside == {"images", "verdicts", "machine", "contents"} and inside <= set(page.ids)
    outside = {(path.parent / link).resolve() for link in page.links if not link.startswith("#")}
    assert outside == {run.folder.resolve() for run in runs}


def test_everything_of_a_section_is_on_both_pages(tmp_path, report):
    section = Section(
        id="made-up",
        title="A made-up title",
        asked="Is 1 < 2 & 3 | 4?",
        figures=(Figure("A figure", "Its caption", '<svg xmlns="http://www.w3.org/2000/svg"></svg>'),),
        claims=(Claim(claim="A claim", paper="“A quote”", measured="1; 2", verdict="partly", how="A rule"),),
        table=Table(("a", "b"), (("one", "two"),)),
        rerun="a command --with <this>",
    )
    shown = Report((Chapter(section, report.chapters[0].runs),), report.environment)
    write_report(shown, tmp_path / "r.html")
    write_report(shown, tmp_path / "r.md")
    page, markdown = "".join(Page((tmp_path / "r.html").read_text()).text), (tmp_path / "r.md").read_text()
    keys = [run.key for run in report.chapters[0].runs]
    for part in ("A made-up title", "A figure", "Its caption", "A claim", "“A quote”", "partly", "A rule", *keys):
        assert part in page and part in markdown, part
    for part in ("Is 1 < 2 & 3 | 4?", "a command --with <this>", "one", "two"):
        assert part in page and part in markdown, part
    assert "| one | two |" in markdown


def test_markdown_puts_its_figures_beside_it(tmp_path, report):
    write_report(report, tmp_path / "results" / "REPORT.md")
    markdown = (tmp_path / "results" / "REPORT.md").read_text()
    named = re.findall(r"!\[[^]]*\]\(([^)]*)\)", markdown)
    assert named == ["images-1.svg", "images-2.svg"]
    for name in named:
        assert ElementTree.parse(tmp_path / "results" / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    rows = [line for line in markdown.splitlines() if line.startswith("| A") or line.startswith("| W")]
    assert {row.count(" | ") for row in rows} == {4}
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["REPORT.md", *named]


def test_the_same_records_give_the_same_bytes(tmp_path, report):
    write_report(report, tmp_path / "one.html")
    write_report(gather(tmp_path / "runs"), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_the_environment_names_every_value_once(tmp_path, runs):
    path = runs[0].folder / "environment.json"
    path.write_text(json.dumps({**runs[0].environment, "cores": 4242}))
    (runs[0].folder / "SHA256SUMS").unlink()
    values = dict(gather(tmp_path / "runs").environment)
    assert set(values["cores"].split(", ")) == {"4242", str(runs[1].environment["cores"])}
    assert values["PyTorch"] == runs[0].environment["torch"]


def test_nothing_to_report_says_what_to_do(tmp_path, runs):
    with pytest.raises(ReportError, match=r"no complete run lies below .*none; make some with: linear-backprop"):
        gather(tmp_path / "none")
    (runs[0].folder / "record.json").unlink()
    assert {run.key for run in gather(tmp_path / "runs").chapters[0].runs} == {run.key for run in runs[1:]}


def test_a_damaged_record_is_named_and_left_out_of_the_report(tmp_path, runs):
    path = runs[0].folder / "metrics.jsonl"
    path.write_text(path.read_text().replace("2.3", "1.3"))
    found = gather(tmp_path / "runs")
    assert {run.key for run in found.chapters[0].runs} == {run.key for run in runs[1:]}
    assert found.left_out == ((f"images/{runs[0].key}", found.left_out[0][1]),)
    for name in ("r.html", "r.md"):
        write_report(found, tmp_path / name)
        text = (tmp_path / name).read_text()
        assert f"images/{runs[0].key}" in text and "metrics.jsonl" in text


def test_several_writers_of_one_report_leave_it_whole_and_nothing_beside_it(tmp_path, report):
    path = tmp_path / "out" / "r.html"
    with ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(write_report, report, path) for _ in range(40)]:
            written.result()
    Page(path.read_text())
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_and_a_name_that_is_too_long_are_refused(tmp_path, report):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(
        ReportError, match=r"cannot write a report to .*folder\.html: it is a folder; name a file, such"
    ):
        write_report(report, tmp_path / "folder.html")
    with pytest.raises(
        RunError, match=r"xx\.html cannot be written \(File name too long\); mend that, or name another"
    ):
        write_whole(tmp_path / f"{'x' * 300}.html", b"")
    assert {path.name for path in tmp_path.iterdir()} == {"folder.html", "runs"}


def test_another_ending_is_refused(tmp_path, report):
    with pytest.raises(ReportError, match=r"cannot write a report to .*r\.pdf: its name must end in \.html or \.md"):
        write_report(report, tmp_path / "r.pdf")
