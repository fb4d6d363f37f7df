"""What `test_ray.py` starts: Ray keeps files and processes open for as long as the process that used it lives."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from lab.sweeps.tiny import tiny_job

from linear_backprop_lab.sweeps import Outcome, run_on_ray

FAULTS = ("", "killed once", "error")


def main(root: Path) -> None:
    jobs = [tiny_job(root, seed, fault) for seed, fault in enumerate(FAULTS)]
    told: list[list[int | Outcome]] = [[] for _ in jobs]
    run_on_ray(jobs, lambda index, what: told[index].append(what))
    print(json.dumps([[asdict(what) if isinstance(what, Outcome) else what for what in each] for each in told]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
