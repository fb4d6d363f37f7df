import pytest
import torch

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.models import ConstantBatchNorm2d
from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import Place, Scale, experiments_named, jobs_of
from linear_backprop_lab.studies.collapse import runs as experiment
from linear_backprop_lab.studies.collapse.cases import Case, cases
from linear_backprop_lab.studies.collapse.methods import method_named
from linear_backprop_lab.studies.collapse.runs import calibrated, plan
from linear_backprop_lab.studies.collapse.timing import timing_job, timing_plan
from linear_backprop_lab.studies.images.building import build_model
from linear_backprop_lab.training import Normalizer, Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

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


@pytest.fixture
def data(monkeypatch):
    """What the experiment finds: 250 training images, each of one grey, its number, so that it tells which it is."""
    labels = torch.arange(250) % 10
    images = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(250, 3, 32, 32).contiguous()
    tests = torch.randint(256, (60, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = ImageDataset("made-up", images, labels, tests, labels[:60], tuple("abcdefghij"), "a test")
    monkeypatch.setattr(Place, "images", lambda self: found)
    return found


@pytest.fixture
def small(data, monkeypatch):
    monkeypatch.setattr(experiment, "cases", lambda scale: (SMALL,))


def jobs(root):
    return jobs_of(experiments_named(["collapse"]), Place(root), Scale.CPU)


def part(root, name):
    return [job for job in jobs(root) if job.run.config["part"] == name]


def swept(root, held_out_accuracies, **statuses):
    """Complete the sweep with made-up outcomes, by (method, learning rate); `linear_0.001="diverged"` sets a status."""
    for job in part(root, "sweep"):
        method, rate = job.run.config["method"], job.run.config["recipe"]["learning_rate"]
        job.run.start()
        job.run.log(held_out_accuracy=held_out_accuracies[method, rate])
        job.run.close(status=statuses.get(f"{method}_{rate:g}", "finished"))


def test_the_sweep_comes_first_and_the_rest_follows_from_it(tmp_path, small):
    sweep = jobs(tmp_path)
    assert [job.run.config["part"] for job in sweep] == ["sweep"] * 4
    assert plan(Place(tmp_path), Scale.CPU).awaited == 4
    for job in sweep:
        done = []
        job.perform(done.append)
        assert done == list(range(1, job.steps + 1)) and job.steps == 2 * 2
        assert 0 <= job.run.metrics[-1]["held_out_accuracy"] <= 1
    rest = part(tmp_path, "train")
    assert len(sweep) + len(rest) == len(jobs(tmp_path)) and plan(Place(tmp_path), Scale.CPU).awaited == 0
    of_whom = [(job.run.config["method"], job.run.config["recipe"]["seed"]) for job in rest]
    assert of_whom == [("backprop", 0), ("backprop", 1), ("linear", 0), ("linear", 1)]
    rest[3].perform(lambda step: None)
    (line, last) = rest[3].run.metrics
    assert (line["epoch"], last["epoch"]) == (1, 2) and "held_out_accuracy" not in last
    assert rest[3].run.record["status"] == "finished"


def test_each_method_gets_its_best_learning_rate_the_lower_of_equals(tmp_path, small):
    swept(
        tmp_path,
        {("backprop", 1e-4): 0.2, ("backprop", 1e-3): 0.3, ("linear", 1e-4): 0.25, ("linear", 1e-3): 0.25},
    )
    chosen = {(job.run.config["method"], job.run.config["recipe"]["learning_rate"]) for job in part(tmp_path, "train")}
    assert chosen == {("backprop", 1e-3), ("linear", 1e-4)}


@pytest.mark.parametrize("name", ["record.json", "metrics.jsonl"])
def test_a_method_whose_sweep_is_not_complete_and_whole_waits(tmp_path, small, name):
    swept(tmp_path, dict.fromkeys([(method, rate) for method in SMALL.methods for rate in SMALL.learning_rates], 0.5))
    (next(job for job in part(tmp_path, "sweep")).run.folder / name).unlink()
    assert {job.run.config["method"] for job in part(tmp_path, "train")} == {"linear"}


def test_what_diverged_is_not_chosen(tmp_path, small):
    outcomes = dict.fromkeys([(method, rate) for method in SMALL.methods for rate in SMALL.learning_rates], 0.2)
    swept(tmp_path, {**outcomes, ("linear", 1e-3): 0.3}, **{"linear_0.001": "diverged"})
    assert {job.run.config["recipe"]["learning_rate"] for job in part(tmp_path, "train")} == {1e-4}


def test_the_sweep_trains_on_nothing_it_is_judged_on(tmp_path, small, monkeypatch):
    given = []
    monkeypatch.setattr(experiment, "train", lambda model, images, *rest, **options: given.append(images))
    for job in jobs(tmp_path):
        job.perform(lambda step: None)
    for images in given:
        trained, judged = (
            {int(image[0, 0, 0]) for image in each} for each in (images.train_images, images.held_out_images)
        )
        assert len(trained) == 128 and len(judged) == 50 and not trained & judged


def test_methods_differ_in_nothing_else(tmp_path, data):
    configs = [job.run.config for job in jobs(tmp_path)]
    assert len({str(config) for config in configs}) == len(configs)
    for case in cases(Scale.CPU):
        of_case = [{**c, "recipe": None, "method": None} for c in configs if c["model"] == case.model]
        assert len(of_case) == len(case.learning_rates) * len(case.methods)
        assert all(each == of_case[0] for each in of_case)


@pytest.mark.parametrize("case", cases(Scale.CPU), ids=lambda case: f"{case.model['name']}-{case.model['activation']}")
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
    stem = calibrated({"name": "residual", "activation": "ReLU", "widths": [4]}, data, 0).stem
    expected = stem[0](Normalizer(data.train_images)(data.train_images)).detach()
    assert isinstance(stem[1], ConstantBatchNorm2d)
    # Float32 sums of 256,000 values of size 1.
    torch.testing.assert_close(stem[1].running_mean, expected.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stem[1].running_var, expected.var((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_timing_records_every_method_of_every_model(tmp_path):
    (config,) = timing_plan(Place(tmp_path), Scale.CPU).configs
    assert [case["methods"] for case in config["cases"]] == [case.methods for case in cases(Scale.CPU)]
    convnet = {**config["cases"][-1], "methods": ["backprop", "linear"]}
    job = timing_job(Run(tmp_path, {**config, "rounds": 1, "cases": [convnet]}), Place(tmp_path))
    done = []
    job.perform(done.append)
    assert done == [1] and job.steps == 1 and job.run.is_complete
    (line,) = job.run.metrics
    assert line["model"] == convnet["model"] and line["batch_size"] == 128
    assert list(line["seconds"]) == ["backprop", "linear"]
    assert all(0 < value < 10 for value in line["seconds"].values())


def test_smoke_has_every_method_on_an_mlp_and_a_convnet_as_wide_and_far_shorter(tmp_path):
    smoke, whole = cases(Scale.SMOKE), cases(Scale.PAPER)
    assert [case.model["name"] for case in smoke] == ["mlp", "residual"]
    kinds = [{method.partition(":")[0] for case in each for method in case.methods} for each in (smoke, whole)]
    assert kinds[0] == kinds[1]
    for case in smoke:
        assert case.model in [each.model for each in whole] and case.recipe.steps(case.train_images) == 1
    assert timing_plan(Place(tmp_path), Scale.SMOKE).configs[0]["rounds"] == 1


def test_all_leaves_out_the_timing_which_wants_the_machine_to_itself():
    named = [each.name for each in experiments_named(["all"])]
    assert "collapse" in named and "collapse-timing" not in named
    assert {each.name for each in experiments_named(["all", "collapse-timing"])} == {*named, "collapse-timing"}
    assert "collapse" not in [each.name for each in experiments_named([])]
