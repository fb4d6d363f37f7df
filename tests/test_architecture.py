"""The arrow between the two packages, and what the library may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import linear_backprop as lb

LIBRARY = Path(lb.__file__).parent


def imported(path: Path) -> set[str]:
    """The top-level names of everything a file imports from outside its package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_the_library_imports_torch_and_the_standard_library_alone(path: Path):
    assert imported(path) - set(sys.stdlib_module_names) <= {"torch"}


def test_importing_the_library_imports_no_lab():
    code = "import sys, linear_backprop; print(*sorted(m for m in sys.modules if m.startswith('linear_backprop_lab')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_public_name_is_documented():
    for name in (n for n in vars(lb) if not n.startswith("_")):
        assert getattr(lb, name).__doc__, name
