import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_training.py"


def test_it_runs_and_its_ratio_is_that_of_its_rates() -> None:
    command = [sys.executable, str(BENCHMARK), "--width", "0.01", "--images", "256", "--rounds", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usual, labs = (float(rate) for rate in re.findall(r"^\| the .* \| (\d+) \|$", printed, flags=re.MULTILINE))
    ratio = re.search(r"times the usual loop's; ([\d.]+):", printed)
    assert ratio is not None
    # Rates are printed to an image, of hundreds, and the ratio to a hundredth.
    assert abs(labs / usual - float(ratio[1])) < 0.05
    assert "VGG19 with batch normalization, width 0.01, 256 images an epoch" in printed
