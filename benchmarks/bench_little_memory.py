"""What a network learns in little memory: test accuracy against peak memory, bytes sent and time, trained to the end.

    python benchmarks/bench_little_memory.py [--data FOLDER] [--records benchmarks/records] [--smoke]

Trains what is missing below the records' folder, on one thread; it may be stopped and started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from little_memory import SMOKE, Setting, train_all


def main() -> None:
    """Train, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    parser.add_argument("--data", type=Path, help="the folder of CIFAR-10")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, to see that it runs")
    arguments = parser.parse_args()
    setting = SMOKE if arguments.smoke else Setting()
    train_all(arguments.records, setting, arguments.data)


if __name__ == "__main__":
    main()
