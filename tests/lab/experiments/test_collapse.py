import pytest
import torch

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.experiments import _collapse as experiment
from linear_backprop_lab.experiments._building import build_model
from linear_backprop_lab.experiments._collapse import CASES, Case, collapse_jobs, prepared, sweep_jobs
from linear_backprop_lab.experiments._collapse_timing import timing_jobs
from linear_backprop_lab.experiments._methods import method_named
from linear_backprop_lab.models import ConstantBatchNorm2d
from linear_backprop_lab.records import Run, RunError
from linear_backprop_lab.training import Normalizer, Recipe

SMALL = Case(
    model={"name": "mlp", "activation": "Tanh", "widths": [3072, 6, 10]},
    methods=("backprop", "linear"),
    recipe=Recipe(epochs=2, batch_size=64, learning_rate=0, optimizer="adam", augment=False),
    train_images=192,
    test_images=50,
    sweep_images=128,
    learning_rates=(1e-4, 1e-3),
    seeds=(0, 1),
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data():
    """Every training image is one grey, its number; so an image tells which it is."""
    labels = torch.arange(250) % 10
    images = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(250, 3, 32, 32).contiguous()
    tests = torch.randint(256, (60, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageDataset("made-up", images, labels, tests, labels[:60], tuple("abcdefghij"), "a test")


def swept(root, data, accuracies):
    """Complete the sweep with made-up accuracies, by (method, learning rate)."""
    for job in sweep_jobs(root, data, (SMALL,)):
        config = job.run.config
        job.run.start()
        job.run.close(test_accuracy=accuracies[config["method"], config["recipe"]["learning_rate"]])


def test_sweep_and_training_make_records_that_resolve_each_other(tmp_path, data):
    jobs = sweep_jobs(tmp_path, data, (SMALL,))
    assert len(jobs) == 4
    for job in jobs:
        done = []
        job.perform(done.append)
        assert done == list(range(1, job.steps + 1)) and job.steps == 2 * 2
    jobs = collapse_jobs(tmp_path, data, (SMALL,))
    assert [(job.run.config["method"], job.run.config["recipe"]["seed"]) for job in jobs] == [
        ("backprop", 0),
        ("backprop", 1),
        ("linear", 0),
        ("linear", 1),
    ]
    jobs[3].perform(lambda step: None)
    assert jobs[3].run.is_complete and len(jobs[3].run.metrics) == 2
    assert jobs[3].run.config["train_images"] == 192 and jobs[3].run.config["test_images"] == 50


def test_each_method_gets_its_best_learning_rate_the_lower_of_equals(tmp_path, data):
    swept(
        tmp_path,
        data,
        {("backprop", 1e-4): 0.2, ("backprop", 1e-3): 0.3, ("linear", 1e-4): 0.25, ("linear", 1e-3): 0.25},
    )
    chosen = {
        (job.run.config["method"], job.run.config["recipe"]["learning_rate"])
        for job in collapse_jobs(tmp_path, data, (SMALL,))
    }
    assert chosen == {("backprop", 1e-3), ("linear", 1e-4)}


def test_a_missing_sweep_is_said(tmp_path, data):
    with pytest.raises(RunError, match=r"mlp .*Tanh, backprop: .*missing below .*reproduce collapse-sweep"):
        collapse_jobs(tmp_path, data, (SMALL,))


def test_the_sweep_sees_neither_test_images_nor_trains_on_what_it_tests(tmp_path, data, monkeypatch):
    given = []
    monkeypatch.setattr(experiment, "train", lambda model, subset, *rest, **options: given.append(subset))
    for job in sweep_jobs(tmp_path, data, (SMALL,)):
        job.perform(lambda step: None)
    for subset in given:
        trained, tested = (
            {int(image[0, 0, 0]) for image in images} for images in (subset.train_images, subset.test_images)
        )
        assert len(trained) == 128 and trained <= set(range(200))
        assert tested == set(range(200, 250))
        assert torch.equal(subset.train_labels, subset.train_images[:, 0, 0, 0].long() % 10)
        assert torch.equal(subset.test_labels, subset.test_images[:, 0, 0, 0].long() % 10)
        assert "its last 50 training images held out" in subset.source


def test_methods_differ_in_nothing_else(tmp_path, data):
    configs = [job.run.config for job in sweep_jobs(tmp_path, data)]
    assert len({str(config) for config in configs}) == len(configs) == sum(3 * len(case.methods) for case in CASES)
    assert {config["data"] for config in configs} == {"made-up"}
    for case in CASES:
        of_case = [{**c, "recipe": None, "method": None} for c in configs if c["model"] == case.model]
        assert len(of_case) == 3 * len(case.methods) and all(each == of_case[0] for each in of_case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model['name']}-{case.model['activation']}")
def test_every_case_can_be_built_and_names_modules_it_has(case):
    paths = {path for path, _ in build_model(case.model, 0).named_modules()}
    for method in case.methods:
        method_named(method)
        _, _, path = method.partition(":")
        assert not path or path in paths


def test_the_same_seed_gives_the_same_model_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (build_model(SMALL.model, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.layers[0].weight, same.layers[0].weight)
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)


def test_a_model_with_statistics_starts_calibrated(data):
    model = prepared({"name": "residual", "activation": "ReLU", "widths": [4]}, data, 0)
    stem = model.stem
    expected = stem[0](Normalizer(data.train_images)(data.train_images)).detach()
    assert isinstance(stem[1], ConstantBatchNorm2d)
    # Float32 sums of 256,000 values of size 1.
    torch.testing.assert_close(stem[1].running_mean, expected.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stem[1].running_var, expected.var((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_timing_records_every_method_of_every_model(tmp_path):
    (job,) = timing_jobs(tmp_path, (SMALL,), rounds=2)
    done = []
    job.perform(done.append)
    assert done == [1] and job.steps == 1 and job.run.is_complete
    (line,) = job.run.metrics
    assert line["model"] == SMALL.model and line["batch_size"] == 64
    assert list(line["seconds"]) == ["backprop", "linear"]
    assert all(0 < value < 1 for value in line["seconds"].values())


def test_timing_is_one_record_a_set_of_cases(tmp_path):
    (job,), (again,) = timing_jobs(tmp_path), timing_jobs(tmp_path)
    assert job.run.key == again.run.key != timing_jobs(tmp_path, (SMALL,))[0].run.key
    assert isinstance(job.run, Run)
