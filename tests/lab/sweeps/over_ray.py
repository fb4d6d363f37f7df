"""What `test_ray.py` starts: Ray keeps files and processes open for as long as the process that used it lives."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from lab.sweeps.tiny import tiny_job

from linear_backprop_lab.sweeps import Outcome, run_on_ray

FAULTS = ("", "killed once", "error", "assigned")

Told = list[list[int | Outcome]]


def main(root: Path) -> None:
    print(json.dumps({"here": plain(on_a_cluster_of_its_own(root)), "there": plain(on_a_cluster_that_is_there(root))}))


def on_a_cluster_of_its_own(root: Path) -> Told:
    return sweep(root / "here", FAULTS[:1], None)


def on_a_cluster_that_is_there(root: Path) -> Told:
    """Two machines, as far as Ray can tell, one of them with a GPU."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1, num_gpus=1)
    try:
        return sweep(root / "there", FAULTS, cluster.address)
    finally:
        cluster.shutdown()


def sweep(root: Path, faults: tuple[str, ...], address: str | None) -> Told:
    jobs = [tiny_job(root, seed, fault) for seed, fault in enumerate(faults)]
    told: Told = [[] for _ in jobs]
    run_on_ray(jobs, lambda index, what: told[index].append(what), address)
    return told


def plain(told: Told) -> list[list[int | dict[str, str]]]:
    return [[asdict(what) if isinstance(what, Outcome) else what for what in each] for each in told]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
