"""The arrow between the two packages, the stair inside the library, and what it may import."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import linear_backprop as lb

LIBRARY = Path(lb.__file__).parent
FILES = sorted(LIBRARY.rglob("*.py"))
# Each room imports only from those above it, and from itself.
STAIR = [
    "_errors",
    "_torch",
    "_call",
    "_catalogue",
    "_rules",
    "_autograd",
    "_conversion",
    "_collapse",
    "diagnostics",
    "attribution",
    "__init__",
]


def imported(path: Path) -> set[str]:
    """The top-level names of everything a file imports from outside its package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def room(path: Path) -> str:
    """The room of a file or folder of the library."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a file of the library imports from, under `TYPE_CHECKING` and inside functions, too."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            rooms |= {room(target / alias.name) for alias in node.names} if target == LIBRARY else {room(target)}
    return rooms


by_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))


@by_file
def test_the_library_is_a_stair(path: Path):
    above = STAIR[: STAIR.index(room(path)) + 1]
    assert rooms_imported(path) <= set(above)


def test_the_stair_has_every_room():
    assert {room(path) for path in FILES} == set(STAIR)


def test_loading_convert_loads_nothing_of_the_collapse():
    code = f"""
import sys, types
package = types.ModuleType("linear_backprop")  # the package without its public face, which loads everything
package.__path__ = [{str(LIBRARY)!r}]
sys.modules["linear_backprop"] = package
import linear_backprop._conversion.convert
print(*sorted({{name.split(".")[1] for name in sys.modules if name.startswith("linear_backprop.")}}))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) == set(STAIR[: STAIR.index("_conversion") + 1])


def test_private_interfaces_of_pytorch_are_used_in_one_place():
    private = re.compile(r"\btorch\._C\b|reportPrivateUsage")
    assert [room(path) for path in FILES if private.search(path.read_text())] == ["_torch"]


@by_file
def test_the_library_imports_torch_and_the_standard_library_alone(path: Path):
    assert imported(path) - set(sys.stdlib_module_names) <= {"torch"}


def test_importing_the_library_imports_no_lab():
    code = "import sys, linear_backprop; print(*sorted(m for m in sys.modules if m.startswith('linear_backprop_lab')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_public_name_is_documented():
    for name in (n for n in vars(lb) if not n.startswith("_")):
        assert getattr(lb, name).__doc__, name
