import pytest

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import (
    Job,
    Only,
    Place,
    Scale,
    UnknownSettingError,
    check_settings,
    experiments_named,
    jobs_of,
    runs_with,
)


@pytest.fixture
def jobs(tmp_path):
    configs = [
        {"experiment": "e", "rule": rule, "model": {"batch_norm": bn}, "recipe": {"learning_rate": rate, "seed": 0}}
        for rule in ("Exact()", "Linear()")
        for bn, rate in ((True, 1e-3), (True, 1e-4), (False, 1e-3))
    ]
    return [Job(Run(tmp_path, config), "", 1, lambda on_step: None) for config in configs]


def chosen(jobs, *texts):
    only = [Only.parse(text) for text in texts]
    check_settings(jobs, only)
    return [jobs.index(job) for job in runs_with(jobs, only)]


@pytest.mark.parametrize(
    "texts, expected",
    [
        ([], [0, 1, 2, 3, 4, 5]),
        (["rule=Linear()"], [3, 4, 5]),
        (["batch_norm=true"], [0, 1, 3, 4]),
        (["batch_norm=true", "learning_rate=0.001"], [0, 3]),
        # Numbers are equal, however they are written.
        (["learning_rate=1e-4", "rule=Exact()"], [1]),
        (["seed=0", "batch_norm=false", "rule=Linear()"], [5]),
    ],
)
def test_runs_are_chosen_by_settings_at_any_depth(jobs, texts, expected):
    assert chosen(jobs, *texts) == expected


@pytest.mark.parametrize(
    "texts, message",
    [
        (["width=1"], r"no run has a setting 'width'; there are experiment, rule, batch_norm, learning_rate, seed$"),
        (["rule=Linear"], r'no run has rule="Linear"; there are "Exact\(\)", "Linear\(\)"$'),
        (["learning_rate=1"], r"no run has learning_rate=1; there are 0.001, 0.0001$"),
        # What is 1 is not true.
        (["batch_norm=1"], r"no run has batch_norm=1; there are true, false$"),
        (["batch_norm=false", "learning_rate=1e-4"], r"no run has all of batch_norm=false, learning_rate=0.0001$"),
        (["batch_norm"], "'batch_norm' is no setting; give KEY=VALUE, such as batch_norm=true"),
        (["=3"], "'=3' is no setting"),
    ],
)
def test_what_no_run_has_is_said_with_what_there_is(jobs, texts, message):
    with pytest.raises(UnknownSettingError, match=message):
        chosen(jobs, *texts)


def test_the_paper_s_own_setting_of_figure_2_is_two_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("LINEAR_BACKPROP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jobs = jobs_of(experiments_named(["fig4"]), Place(tmp_path), Scale.PAPER)
    found = chosen(jobs, "batch_norm=true", "learning_rate=0.001", "weight_decay=0.0001")
    assert [jobs[index].run.config["rule"] for index in found] == ["Exact()", "Linear()"]
