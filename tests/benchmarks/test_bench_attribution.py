import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("captum")
pytest.importorskip("zennit_rules", exc_type=ImportError)
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_attribution.py"


def test_it_runs_and_its_verdicts_are_those_of_its_tables() -> None:
    command = [sys.executable, str(BENCHMARK), "--only", "ReLU", "--rounds", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    deltas, zennit, times = (table.strip().splitlines()[2:] for table in re.findall(r"(?:^\|.*\n)+", printed, re.M))
    rows = {row.split(" | ")[0][2:]: row.removesuffix(" |").split(" | ")[1:] for row in deltas}
    assert list(rows) == [
        f"ReLU, {form}" for form in ("modules", "functional", "reused", "in place", "made in forward")
    ]
    assert all(float(ours) < 1e-8 for ours, _ in rows.values())
    assert "5 networks. Off by less than 1e-08: ours 5, captum's 0, raising on 1" in printed
    assert float(rows["ReLU, functional"][1]) > 1e-3 and rows["ReLU, reused"][1].startswith("RuntimeError")
    differences = [row.removesuffix(" |").split(" | ")[1:] for row in zennit]
    assert all(float(each) < 1e-12 for each in differences[0])  # float64
    assert all(float(each) > 1e-3 for each in differences[1])  # what is no module follows no rule there
    ours, theirs, ratio = map(float, times[0].removesuffix(" |").split(" | ")[1:])
    # Times are printed to a tenth of a millisecond, the ratio to a hundredth.
    assert abs(ratio - ours / theirs) < 0.01 + ratio * (0.05 / ours + 0.05 / theirs)
