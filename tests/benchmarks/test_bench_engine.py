import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_engine.py"


def test_it_runs_and_its_ratios_are_those_of_its_rates() -> None:
    options = ["--images", "16", "--width", "0.03125", "--rounds", "1", "--runs", "2"]
    printed = subprocess.run(
        [sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=True
    ).stdout
    rows = re.findall(r"^\| (.+) \| (\d+) \| (.+) \| (\d+) \| ([\d.]+) \| [\d.]+ \|$", printed, flags=re.MULTILINE)
    assert [(what, against) for what, _, against, _, _ in rows] == [
        ("one run", "plain loop"),
        ("2 runs side by side", "one after another"),
    ]
    for _, ours, _, theirs, ratio in rows:
        # Rates are printed to an image, the ratio to a hundredth.
        assert abs(float(ratio) - int(ours) / int(theirs)) < 0.006 + float(ratio) * (
            0.5 / int(ours) + 0.5 / int(theirs)
        )
    assert printed.count("Targets: ") == 1
