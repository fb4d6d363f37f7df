import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_engine.py"


def test_it_runs_and_its_ratio_is_that_of_its_rates() -> None:
    options = ["--runs", "2", "--images", "16", "--width", "0.03125", "--rounds", "1"]
    command = [sys.executable, str(BENCHMARK), *options]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    beside, after = map(int, re.findall(r"^\| (?:side by side|one after another) \| (\d+) \|$", printed, re.MULTILINE))
    ratio = float(re.search(r"one after another; ([\d.]+): (?:met|MISSED)", printed)[1])
    # Rates are printed to an image, the ratio to a hundredth.
    assert abs(ratio - beside / after) < 0.01 + ratio * (0.5 / beside + 0.5 / after)
