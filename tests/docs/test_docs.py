"""Every Python block of the README, CONTRIBUTING and the documentation runs, a page at a time."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest

import linear_backprop as lb

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = (lb.diagnostics, lb.attribution, lb.attacks)
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs(page: Path, monkeypatch: pytest.MonkeyPatch):
    text = page.read_text(encoding="utf-8")
    module = ModuleType("a_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where Dynamo looks for the names that a function reads
    namespace = vars(module)
    for block in BLOCK.finditer(text):
        lines_above = text[: block.start(1)].count("\n")
        # Placed where it stands in the page, so that a traceback names the page's own line.
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * lines_above + block[1], page, "exec"), namespace)
        if block[2] is not None:  # what it prints stands below it
            assert printed.getvalue() == block[2]


def test_every_block_of_the_readme_runs_by_itself():
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) == 3
    for block, _ in blocks:
        ran = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr


def test_the_readme_is_short():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert 400 <= len(words) <= 800


def test_blocks_are_found():
    found = {page.name: len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert found["README.md"] and found["CONTRIBUTING.md"] and sum(found.values()) > 20


def test_the_reference_has_every_public_name():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    public = [f"linear_backprop.{name}" for name, value in vars(lb).items() if name[0] != "_" and value not in ROOMS]
    public += [f"{room.__name__}.{name}" for room in ROOMS for name in vars(room) if name[0] != "_"]
    assert [name for name in public if f"::: {name}\n" not in reference] == []


def test_the_site_builds_strictly_loads_nothing_from_the_network_and_opens_from_a_file(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))  # and the 404 page
    loaded = re.compile(r"""(?:<link[^>]+href|<script[^>]+src|<img[^>]+src)=["']?(?:https?:)?//""")
    for page in pages:
        content = page.read_text(encoding="utf-8")
        assert not loaded.search(content), page
        assert "<blockquote>" not in content, f"{page}: a docstring's section is called Examples"
        # Without a server a folder does not open, and the root is the machine's; 404.html is for servers.
        if page.name != "404.html":
            linked = re.findall(r"""<(?:a|link|script|img)\b[^>]*?\s(?:href|src)=["']?([^"'#>\s]+)""", content)
            assert len(linked) > 10
            assert [each for each in linked if "://" not in each and not (page.parent / each).is_file()] == [], page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
