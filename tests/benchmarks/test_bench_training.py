import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_training.py"


def test_it_runs_and_its_ratio_is_that_of_its_rates() -> None:
    command = [sys.executable, str(BENCHMARK), "--width", "0.01", "--images", "256", "--rounds", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usual, labs = (float(rate) for rate in re.findall(r"^\| the .* \| (\d+) \|$", printed, flags=re.MULTILINE))
    ratio = float(re.search(r"times the usual loop's; ([\d.]+):", printed)[1])
    # Rates are printed to an image, the ratio to a hundredth.
    assert abs(ratio - labs / usual) < 0.01 + ratio * (0.5 / labs + 0.5 / usual)
    assert "VGG19 with batch normalization, width 0.01, 256 images an epoch" in printed
