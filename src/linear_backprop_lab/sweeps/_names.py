"""What runs side by side are called: by what differs between them, not by what they share."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.studies import Job


def names_of(jobs: Sequence[Job]) -> dict[str, str]:
    """The name of each run by its key: the experiment, if there are several, its rule, and what else tells it apart."""
    experiments: dict[str, list[Job]] = {}
    for job in jobs:
        experiments.setdefault(job.run.config["experiment"], []).append(job)
    prefixes = {name: f"{name}: " if len(experiments) > 1 else "" for name in experiments}
    return {
        job.run.key: prefixes[name] + words
        for name, members in experiments.items()
        for job, words in zip(members, _words(members), strict=True)
    }


def _words(jobs: Sequence[Job]) -> list[str]:
    """Of each job the parts of its label that not all have; its rule, or method, comes first in any case."""
    labels = [_parts(job.label) for job in jobs]
    shared = set(labels[0]).intersection(*labels)
    words: list[str] = []
    for job, label in zip(jobs, labels, strict=True):
        compared = job.run.config.get("rule", job.run.config.get("method"))
        said = [part for part in label if part == compared]
        words.append(", ".join(said + [part for part in label if part not in (*shared, compared)]) or job.label)
    return words


def _parts(label: str) -> list[str]:
    """The label between its commas, but for those inside parentheses."""
    parts: list[str] = []
    for each in label.split(", "):
        if parts and parts[-1].count("(") > parts[-1].count(")"):
            parts[-1] += f", {each}"
        else:
            parts.append(each)
    return parts
