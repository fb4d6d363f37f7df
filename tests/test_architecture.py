"""The arrow between the two packages, the stair inside the library, and what it may import."""

import ast
import inspect
import pydoc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import linear_backprop as lb

LIBRARY = Path(lb.__file__).parent
ROOT = Path(__file__).parents[1]
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
    "attacks",
    "__init__",
]
# So does each flight of the collapse, whose own files put them together.
FLIGHTS = ["captured", "proof", "plan", "step"]


def imported(path: Path) -> set[str]:
    """The top-level names of everything a file imports from outside its package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def room(path: Path, house: Path = LIBRARY) -> str:
    """The room of a file or folder of the library, or of a part of it."""
    return path.relative_to(house).parts[0].removesuffix(".py")


def rooms_imported(path: Path, house: Path = LIBRARY) -> set[str]:
    """The rooms that a file of the library imports from, under `TYPE_CHECKING` and inside functions, too."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            targets = [target / alias.name for alias in node.names] if target == house else [target]
            rooms |= {room(each, house) for each in targets if house in each.parents}
    return rooms


by_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))


@by_file
def test_the_library_is_a_stair(path: Path):
    above = STAIR[: STAIR.index(room(path)) + 1]
    assert rooms_imported(path) <= set(above)


@pytest.mark.parametrize("flight", FLIGHTS)
def test_so_is_the_collapse(flight: str):
    collapse = LIBRARY / "_collapse"
    files = list((collapse / flight).glob("*.py"))
    imported = set[str]().union(*(rooms_imported(path, collapse) for path in files))
    assert flight in imported
    assert imported <= set(FLIGHTS[: FLIGHTS.index(flight) + 1])


def test_the_stair_has_every_room():
    assert {room(path) for path in FILES} == set(STAIR)
    assert {path.parent.name for path in (LIBRARY / "_collapse").glob("*/*.py")} == set(FLIGHTS)


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
    assert {room(path) for path in FILES if private.search(path.read_text())} == {"_torch"}


@by_file
def test_the_library_imports_torch_and_the_standard_library_alone(path: Path):
    assert imported(path) - set(sys.stdlib_module_names) <= {"torch"}


def test_a_collapsed_step_needs_no_numpy():
    code = """
import sys
sys.modules["numpy"] = None
import torch, linear_backprop as lb
from torch import nn
model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
for rule in (lb.Linear(), lb.LocallyExact()):
    lb.collapse(model, rule, always=True)(torch.randn(9, 3)).sum().backward()
lb.convert(model)
model(torch.randn(9, 3)).sum().backward()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_what_the_lab_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {re.split(r"[^\w-]", each)[0] for each in project["dependencies"] + extras["lab"] + extras["ray"]}
    modules = {{"scikit-learn": "sklearn"}.get(each, each) for each in declared}
    files = (LIBRARY.parent / "linear_backprop_lab").rglob("*.py")
    used = set().union(*map(imported, files)) - set(sys.stdlib_module_names)
    assert used == modules | {"linear_backprop", "linear_backprop_lab"}


def test_importing_the_library_imports_no_lab():
    code = "import sys, linear_backprop; print(*sorted(m for m in sys.modules if m.startswith('linear_backprop_lab')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_importing_the_library_does_not_load_dynamo_which_takes_seconds():
    code = "import sys, linear_backprop; print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_public_name_is_documented():
    aliases = {"Elementwise", "Predicate"}  # of `Callable`, which carry none at run time
    for name in (n for n in vars(lb) if not n.startswith("_") and n not in aliases):
        assert getattr(lb, name).__doc__, name


def test_help_has_the_public_names_the_functions_first():
    assert set(lb.__all__) == {name for name in vars(lb) if not name.startswith("_")}
    assert lb.__all__[:4] == ["convert", "with_rule", "backward_rule", "collapse"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", lb.__version__)
    shown = pydoc.plain(pydoc.render_doc(lb))
    opening = shown[: shown.index("PACKAGE CONTENTS")]
    functions = [name for name in lb.__all__ if inspect.isfunction(getattr(lb, name)) or name == "backward_rule"]
    assert len(functions) >= 8
    assert [name for name in functions if f"{name}(" not in opening] == []
    assert [name for name in lb.known_rules() if hasattr(lb, name) and f"{name}(" not in opening] == []


def test_errors_print_as_users_find_them():
    for error in (lb.LinearBackpropError, lb.ConversionError, lb.CollapseError):
        assert f"{error.__module__}.{error.__qualname__}" == f"linear_backprop.{error.__name__}"


TYPED = """
from dataclasses import dataclass
from typing import Any, assert_type

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb


@dataclass(frozen=True)
class StraightThroughSoftmax(lb.LayerRule):
    formula = "g"
    source = "an example"
    modules = (nn.Softmax,)
    arguments = {F.softmax: {"input": None, "dim": None}}

    def linear_map(self, call: lb.Call, constants: tuple[Tensor, ...]) -> Tensor:
        return call.input


def scaled(x: Tensor, factor: float = 1.0) -> Tensor:
    return x * factor


def convert_some(model: nn.Module, where: lb.Where) -> lb.Conversion:
    return lb.convert(model, lb.Clipped(), where)


def collapse_some(model: nn.Module, x: Tensor) -> Tensor:
    fast = lb.collapse(model, where=lb.after("3"), layers=lb.LINEAR_LAYERS)
    with fast.accumulate():
        assert_type(fast(x), Any)
    return fast(x)


@lb.backward_rule()
def step(x: Tensor) -> Tensor:
    return lb.with_rule(scaled)(x, factor=2.0)


assert_type(lb.with_rule(scaled)(torch.zeros(3), 2.0), Tensor)
assert_type(step(torch.zeros(3)), Tensor)
"""


def own_rules(page: str) -> list[str]:
    """The Python blocks of a page that define a rule."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "(lb.BackwardRule):" in block]


def test_a_strictly_typed_user_passes_pyright_and_so_do_the_documented_rules(tmp_path: Path):
    (tmp_path / "user.py").write_text(TYPED)
    for page in ("CONTRIBUTING.md", "docs/rules.md"):
        (block,) = own_rules(page)
        (tmp_path / f"{Path(page).stem.lower()}.py").write_text(block)
    settings = f'{{"typeCheckingMode": "strict", "extraPaths": ["{LIBRARY.parent}"]}}'
    (tmp_path / "pyrightconfig.json").write_text(settings)
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
