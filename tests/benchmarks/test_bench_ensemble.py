import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_ensemble.py"


def test_it_runs_and_its_ratios_are_those_of_its_times() -> None:
    command = [sys.executable, str(BENCHMARK), "--networks", "3", "--steps", "10", "--rounds", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| (\w+)\(\) \| (\d+) \| (\d+) \| ([\d.]+) \|$", printed, flags=re.MULTILINE)
    assert [row[0] for row in rows] == ["Exact", "Linear", "PreActivation"]
    for _, at_once, one_by_one, ratio in rows:
        # The times are printed to a microsecond and the ratio to a tenth.
        assert abs(int(one_by_one) / int(at_once) - float(ratio)) < 0.06
    assert "3 MLPs (1, 50, 50, 50, 50, 1), tanh, 10 steps, median of 1 rounds" in printed
