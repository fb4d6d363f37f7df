import pickle

import pytest

from linear_backprop_lab.data import load_images
from linear_backprop_lab.studies import (
    EXPERIMENTS,
    Place,
    Scale,
    UnknownExperimentError,
    _place,
    awaited,
    experiments_named,
    job_for,
    jobs_of,
    stages_of,
)


@pytest.fixture(autouse=True)
def no_cifar(monkeypatch, tmp_path):
    monkeypatch.delenv("LINEAR_BACKPROP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
@pytest.mark.parametrize("scale", Scale)
def test_a_job_is_made_again_from_its_configuration_and_travels_light(tmp_path, experiment, scale):
    jobs = jobs_of([experiment], Place(tmp_path), scale)
    assert len({job.run.key for job in jobs}) == len(jobs) > 0
    kinds = {job.run.config["experiment"] for job in jobs}
    # At the paper's scale those at its learning rate are runs of figure 4.
    shared = (experiment.name, scale, kinds) == ("paper-rate", Scale.PAPER, {"vgg19"})
    assert (experiment.records or experiment.name) in kinds or shared
    for job in jobs:
        again = job_for(job.run.config, Place(tmp_path))
        assert (again.run.folder, again.label, again.steps) == (job.run.folder, job.label, job.steps)
        # No images: those of CIFAR-10 are 150 MB.
        assert len(pickle.dumps(job)) < 10_000


def test_runs_that_experiments_share_are_made_once(tmp_path):
    jobs = jobs_of([EXPERIMENTS[0], EXPERIMENTS[0]], Place(tmp_path), Scale.CPU)
    assert len(jobs) == len(EXPERIMENTS[0].jobs(Place(tmp_path), Scale.CPU))


def test_records_of_an_unknown_kind_are_named(tmp_path):
    with pytest.raises(UnknownExperimentError, match=r"no experiment makes records of 'fig9'; those made are of fig1,"):
        job_for({"experiment": "fig9"}, Place(tmp_path))


def test_planning_reads_the_images_once_and_keeps_none_of_them(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(_place, "load_images", lambda *_, **__: read.append(0) or load_images(download=False))
    place = Place(tmp_path)
    chosen = experiments_named(["all"])
    assert len(next(stages_of(chosen, place, Scale.SMOKE))) > 0 < awaited(chosen, place, Scale.SMOKE)
    assert len(read) == 1 and place.outlined.images().train_images.is_meta
    assert not place.images().train_images.is_meta
    assert len(pickle.dumps(place)) < 5_000
