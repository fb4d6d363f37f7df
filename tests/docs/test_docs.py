"""Every Python block of the README, CONTRIBUTING and the documentation runs, a page at a time."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import linear_backprop as lb

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = (lb.diagnostics, lb.attribution, lb.attacks)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

A_MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
x, y = torch.randn(256, 784), torch.randint(10, (256,))
loss_fn = nn.CrossEntropyLoss()
"""
# What a page takes for granted: the reader's own model, batch and loss. Every other page stands alone.
PRELUDES = {"README.md": A_MODEL, "CONTRIBUTING.md": A_MODEL}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs(page: Path, monkeypatch: pytest.MonkeyPatch):
    text = page.read_text(encoding="utf-8")
    module = ModuleType("a_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where Dynamo looks for the names that a function reads
    namespace = vars(module)
    exec(PRELUDES.get(page.name, ""), namespace)
    for block in BLOCK.finditer(text):
        lines_above = text[: block.start(1)].count("\n")
        # Placed where it stands in the page, so that a traceback names the page's own line.
        exec(compile("\n" * lines_above + block[1], page, "exec"), namespace)


def test_blocks_are_found():
    found = {page.name: len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert found["README.md"] and found["CONTRIBUTING.md"] and sum(found.values()) > 20


def test_the_reference_has_every_public_name():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    public = [f"linear_backprop.{name}" for name, value in vars(lb).items() if name[0] != "_" and value not in ROOMS]
    public += [f"{room.__name__}.{name}" for room in ROOMS for name in vars(room) if name[0] != "_"]
    assert [name for name in public if f"::: {name}\n" not in reference] == []


def test_the_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))  # and the 404 page
    loaded = re.compile(r"""(?:<link[^>]+href|<script[^>]+src|<img[^>]+src)=["']?(?:https?:)?//""")
    for page in pages:
        assert not loaded.search(page.read_text(encoding="utf-8")), page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
