import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest
import requests
from lab.made_up import image_config, image_run
from rich.console import Console

import linear_backprop as lb
import linear_backprop_lab
from linear_backprop_lab import cli
from linear_backprop_lab.__main__ import main
from linear_backprop_lab.records import Run, damage, is_locked, read
from linear_backprop_lab.studies import (
    EXPERIMENTS,
    Experiment,
    Job,
    Place,
    Plan,
    Scale,
    experiment_names,
    experiments_named,
)

COMMAND = [sys.executable, "-c", "from linear_backprop_lab.cli import main; main()"]


@pytest.fixture
def linear_backprop(capsys, monkeypatch):
    """Run the command line in this process: its exit code, and what it printed with single spaces."""
    monkeypatch.setattr(cli, "_console", Console(width=200))

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stopped.value.code, " ".join((printed.out + printed.err).split())

    return run


class Made(list):
    """The rules whose runs were made, and the one whose run fails."""

    refused = None


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """An experiment of two runs that take no time; the list of those that were made."""
    made = Made()

    def make(rule, on_step):
        if rule == made.refused:
            raise KeyError(rule)
        made.append(rule)
        image_run(tmp_path / "runs", rule, [(2.3, 0.1), (2.2, 0.2)])
        on_step(1)

    def job(run, place):
        rule = run.config["rule"]
        return Job(run, f"a run under {rule}", 1, partial(make, rule))

    plan = Plan([image_config(rule) for rule in ("Exact()", "Linear()")])
    experiment = Experiment("made-up", "two runs", lambda place, scale: plan, job, on_images=False)
    monkeypatch.setattr(cli, "experiments_named", lambda names: [experiment])
    return made


def test_reproduce_makes_what_is_missing_and_draws_the_report(linear_backprop, two_runs, tmp_path):
    options = ("--runs", tmp_path / "runs", "--report", tmp_path / "report.html", "--workers", 1)
    code, printed = linear_backprop("reproduce", *options)
    assert code == 0
    assert two_runs == ["Exact()", "Linear()"]
    assert printed.count("to run") == 2 and "done 2 of 2: a run under Linear()" in printed
    assert f"report: {tmp_path / 'report.html'}" in printed
    assert "VGG19" in (tmp_path / "report.html").read_text()
    next((tmp_path / "runs").glob("*/*/record.json")).unlink()
    code, printed = linear_backprop("reproduce", *options)
    assert code == 0
    assert "2 runs, 1 of them complete" in printed and printed.count("begun") == 1 and len(two_runs) == 3


def test_runs_that_fail_leave_the_others_alone_and_are_listed(linear_backprop, two_runs, tmp_path):
    root = tmp_path / "runs"
    image_run(root, "Blend(Linear(), Exact(), 0.5)", [(None, 0.1)])
    two_runs.refused = "Exact()"
    options = ("--runs", root, "--report", tmp_path / "report.html", "--workers", 1)
    code, printed = linear_backprop("reproduce", *options)
    assert code == 1
    assert "failed a run under Exact(): KeyError: 'Exact()'" in printed and "done 2 of 2: a run under" in printed
    assert "1 of the runs failed; see: linear-backprop runs --runs" in printed
    assert f"report: {tmp_path / 'report.html'}" in printed
    code, printed = linear_backprop("runs", "--runs", root)
    assert code == 0
    for row in (
        r"images [0-9a-f]{12} Blend\(Linear\(\), Exact\(\), 0.5\) diverged \(epoch 1\) 10.0% 1",
        r"images [0-9a-f]{12} Exact\(\) failed \(KeyError: 'Exact\(\)'\)",
        r"images [0-9a-f]{12} Linear\(\) complete 20.0% 2",
    ):
        assert re.search(row, printed), (row, printed)


def test_report_and_list_merge_folders_copied_from_elsewhere(linear_backprop, tmp_path):
    for machine, rule in (("here", "Exact()"), ("there", "Linear()"), ("there", "Exact()")):
        image_run(tmp_path / machine, rule, [(2.3, 0.1), (2.2, 0.2)])
    shutil.copytree(tmp_path / "there", tmp_path / "here", dirs_exist_ok=True)
    code, printed = linear_backprop("runs", "--runs", tmp_path / "here")
    assert code == 0 and printed.count(" complete ") == 2
    code, _ = linear_backprop("report", "--runs", tmp_path / "here", "--report", tmp_path / "REPORT.md")
    assert code == 0
    assert all(run.key in (tmp_path / "REPORT.md").read_text() for run in read(tmp_path / "here").complete)


def test_the_home_folder_may_be_a_tilde(linear_backprop, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    image_run(tmp_path / "runs", "Linear()", [(2.3, 0.1)])
    code, _ = linear_backprop("report", "--runs=~/runs", "--report=~/REPORT.md")
    assert code == 0 and (tmp_path / "REPORT.md").is_file() and not (tmp_path / "~").exists()


def test_report_is_drawn_from_records_alone(linear_backprop, tmp_path):
    for rule in ("Exact()", "Linear()"):
        image_run(tmp_path / "runs", rule, [(2.3, 0.1), (2.2, 0.2)])
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")}
    code, _ = linear_backprop("report", "--runs", tmp_path / "runs", "--report", tmp_path / "REPORT.md")
    assert code == 0
    assert "VGG19" in (tmp_path / "REPORT.md").read_text()
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")} == before


def test_only_runs_with_a_setting_are_made(linear_backprop, two_runs, tmp_path):
    options = ("--runs", tmp_path / "runs", "--report", tmp_path / "report.html", "--workers", 1)
    code, printed = linear_backprop("reproduce", "--only", "rule=Linear()", *options)
    assert code == 0
    assert two_runs == ["Linear()"] and "1 runs, 0 of them complete" in printed
    code, printed = linear_backprop("reproduce", "--only", "rule=Clipped()", *options)
    assert code == 2 and two_runs == ["Linear()"]
    assert 'no run has rule="Clipped()"; there are "Exact()", "Linear()"' in printed.replace("│ ", "")


def test_a_folder_of_data_that_is_wrong_leaves_nothing_behind(linear_backprop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert linear_backprop("reproduce", "images", "--data", "nowhere")[0] == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["reproduce", "fig9"], 2, r"no experiment is named 'fig9'; use fig1, fig1-left, fig1-middle, fig1-right,"),
        (["reproduce", "--only", "rule"], 2, "'rule' is no setting; give KEY=VALUE, such as batch_norm=true"),
        (["reproduce", "--report", "r.pdf"], 2, "its name must end in .html or .md"),
        (["report", "--report", "r.pdf"], 2, "its name must end in .html or .md"),
        (["runs", "--runs", "nowhere"], 1, "error: no record lies below nowhere; make some with:"),
        (["reproduce", "--address", "auto"], 2, "--address and --gpus-per-run are of Ray; give --engine ray"),
        (["reproduce", "--engine", "ray", "--workers", "2"], 2, "--workers is of the local engine; Ray starts as"),
        (["report", "--runs", "nowhere"], 1, "error: no complete run lies below nowhere; make some with:"),
        (["reproduce", "images", "--data", "nowhere"], 1, "error: nowhere does not exist"),
        (["convert-check", "m:f", "--rule", "cubic"], 2, "no rule is named 'cubic'; the rules are Exact, Linear,"),
        (["convert-check", "m:f", "--rule", "Clipped(low=2)"], 2, "Clipped needs low < high"),
        (["convert-check", "m:f", "--rule", 'MeanLinear("a")'], 2, "units must be a whole number, got 'a'"),
        (["convert-check", "mf"], 2, "'mf' is not a model; give MODULE:FACTORY, such as"),
        (["convert-check", "no_such_module:f"], 2, "cannot import 'no_such_module'"),
        (["convert-check", "math:Net"], 2, "math has no 'Net'; it has acos, acosh,"),
        (["report", "--runs", ".", "--report", "/proc/none/r.html"], 1, "error: /proc/none cannot be written (No such"),
        (["convert-check", "math:sin"], 2, "math:sin cannot be called without arguments"),
        (["convert-check", "os:getcwd"], 2, "os:getcwd gives str, not an nn.Module"),
        (["convert-check", "torch.nn:ReLU", "--input-shape", "3,x"], 2, "'3,x' is not a shape; give positive sizes"),
        (["convert-check", "torch.nn:ReLU", "--input-shape", "3,0"], 2, "'3,0' is not a shape; give positive sizes"),
        (
            ["convert-check", "torch.nn:ReLU", "--input-shape", "99999999999,99999999"],
            2,
            "cannot draw an input of shape",
        ),
        (["convert-check", "torch.nn:ReLU", "--input-shape", f"1{30 * '0'}"], 2, "give a smaller --input-shape"),
        (["convert-check", "torch.nn:Identity"], 1, "error: the model has no elementwise activation to change."),
        (["nonsense"], 2, "nonsense"),
        (
            ["reproduce", "--runs", "/proc/none"],
            1,
            "error: /proc/none cannot be written (No such file or directory); name",
        ),
        (
            ["reproduce", "--report", "/proc/none/r.html"],
            1,
            "cannot be written (No such file or directory); name another",
        ),
    ],
)
def test_what_is_wrong_is_said_and_told_apart(linear_backprop, monkeypatch, tmp_path, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    stopped, printed = linear_backprop(*arguments)
    assert stopped == code
    assert message in printed.replace("│ ", "")


def test_a_model_that_does_not_run_on_the_input_is_named(linear_backprop, tmp_path, monkeypatch):
    module = "from torch import nn\nnet = nn.Sequential(nn.Linear(3, 2), nn.Tanh())\n"
    (tmp_path / "model_of_three_inputs.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    code, printed = linear_backprop("convert-check", "model_of_three_inputs:net", "--input-shape", "2,4")
    assert code == 1
    assert "error: the model does not run on inputs of shape (2, 4): " in printed
    assert "give --input-shape, or have the factory return a pair (model, inputs)" in printed


def test_convert_check_finds_calls_and_compares_gradients(linear_backprop, tmp_path, monkeypatch):
    """One unit, a = 1 + 2 x 3 - 6 = 1: Linear's gradient is Backprop's over tanh'(1), and as long."""
    (tmp_path / "model_of_one_unit.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layer = nn.Linear(2, 1)
                    self.layer.load_state_dict({"weight": torch.tensor([[1., 2.]]), "bias": torch.tensor([-6.])})

                def forward(self, x):
                    return torch.tanh(self.layer(x))

            def make():
                return Net(), torch.tensor([[1., 3.]])
        """)
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    code, printed = linear_backprop("convert-check", "model_of_one_unit:make", "--rule", "linear")
    assert code == 0
    assert "(model) tanh (called) Linear() 1 changed, 0 left alone" in printed
    assert "layer.weight +1.000 layer.bias +1.000 all parameters +1.000" in printed
    assert f"{1 / (1 - math.tanh(1) ** 2):.3g} times Backprop's" in printed
    assert sys.path == before
    code, printed = linear_backprop("convert-check", "model_of_one_unit:make", "--rule", "exact")
    assert "1 times Backprop's" in printed


def test_convert_check_says_how_far_collapsed_gradients_agree(linear_backprop, tmp_path, monkeypatch):
    module = "from torch import nn\nnet = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))\n"
    module += "softened = nn.Sequential(nn.Tanh(), nn.Linear(3, 3), nn.Softmax(1))\n"
    (tmp_path / "models_to_collapse.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    check = partial(linear_backprop, "convert-check", "--input-shape", "9,3", "--collapse")
    code, printed = check("models_to_collapse:net")
    assert code == 0
    found = re.search(r"collapsed gradients: within (\S+) of convert's \(relative\)", printed)
    assert found and float(found[1]) < 1e-4  # float32
    code, printed = check("models_to_collapse:softened")
    assert code == 1 and "error: Softmax at '2' cannot be collapsed" in printed
    code, printed = check("models_to_collapse:net", "--rule", "clipped")
    assert code == 2 and "--collapse takes the rules Linear, MeanLinear and LocallyExact" in printed.replace("│ ", "")


def test_convert_check_takes_the_first_tensor_of_an_output_and_says_what_has_no_gradient(
    linear_backprop, tmp_path, monkeypatch
):
    (tmp_path / "model_of_many_outputs.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layer, self.unused = nn.Linear(2, 1), nn.Linear(2, 1, bias=False)

                def forward(self, x):
                    return {"classes": x.argmax(1), "h": (torch.tanh(self.layer(x)), x)}

            class Counts(Net):
                def forward(self, x):
                    return torch.tanh(self.layer(x)).argmax(1)
        """)
    )
    monkeypatch.chdir(tmp_path)
    code, printed = linear_backprop("convert-check", "model_of_many_outputs:Net", "--input-shape", "1,2")
    assert code == 0
    # One sample, one unit: both gradients lie on one line.
    assert "layer.weight +1.000" in printed and "unused.weight no gradient" in printed
    code, printed = linear_backprop("convert-check", "model_of_many_outputs:Counts", "--input-shape", "1,2")
    assert code == 1
    assert "the model returns Tensor without a floating tensor in it; wrap it in a module" in printed


@pytest.mark.parametrize(
    "body, message",
    [
        ("def make(): return 1 + 'a'", "own_code:make() raised TypeError: unsupported operand"),
        ("def make(): raise OSError('no weights')", "own_code:make() raised OSError: no weights"),
        (
            "def make(width): pass",
            "own_code:make cannot be called without arguments: missing a required argument: 'width'",
        ),
        ("raise RuntimeError('not today')", "importing 'own_code' raised RuntimeError: not today"),
        ("def make(: pass", "importing 'own_code' raised SyntaxError: invalid syntax"),
    ],
)
def test_what_a_user_s_own_code_raises_is_said(linear_backprop, tmp_path, monkeypatch, body, message):
    (tmp_path / "own_code.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    code, printed = linear_backprop("convert-check", "own_code:make")
    assert code == 2
    assert message in printed.replace("│ ", "")


def test_rules_lists_every_rule_with_its_formula(linear_backprop):
    code, printed = linear_backprop("rules")
    assert code == 0
    for part in ("Exact() g * f'(a)", "PreActivation() g * a", "Clipped(low=-1.0, high=1.0) g if low <= a <= high"):
        assert part in printed
    assert "ConstantStatistics() g * weight / sqrt(var + eps)" in printed
    for layer in (*lb.LINEAR_LAYERS, lb.RescaledMaximum(), lb.SoftenedMaximum()):
        assert f"{layer!r} {layer.formula}" in printed
    assert "layers=lb.LINEAR_LAYERS) # the first 3" in printed


def test_a_folder_that_cannot_be_written_is_said_once_before_anything_is_run(linear_backprop, two_runs, tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, printed = linear_backprop("reproduce", "--runs", tmp_path / "runs", "--report", tmp_path / "report.html")
    assert code == 1 and two_runs == []
    assert printed == f"error: {tmp_path}/runs cannot be written (File exists); name another place with --runs"


def test_a_missing_network_is_said_once_and_no_run_tries_again(linear_backprop, monkeypatch, tmp_path):
    monkeypatch.delenv("LINEAR_BACKPROP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = []

    def unplugged(url, **_):
        tried.append(url)
        raise requests.ConnectionError("unplugged")

    monkeypatch.setattr(requests, "get", unplugged)
    options = ("--workers", 1, "--runs", tmp_path / "runs", "--report", tmp_path / "report.html")
    code, printed = linear_backprop("reproduce", "images", "--scale", "smoke", *options)
    assert code == 0 and len(tried) == 1
    assert printed.count("no CIFAR-10 to download: digits take its place; --data DIR names its folder") == 1
    assert "http" not in printed and printed.count("done ") == 8
    code, printed = linear_backprop("reproduce", "fig1", "--only", "activation=none", *options)
    assert code == 2 and len(tried) == 1  # it needs no images


def test_without_the_extra_the_command_says_what_to_type(tmp_path):
    """The library alone is installed: whatever the lab needs beside it is missing."""
    hidden = "import sys; sys.modules['typer'] = None; from linear_backprop_lab.__main__ import main; main()"
    ran = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr == (
        "linear-backprop: typer is not installed; the command needs the lab, in the clone: pip install '.[lab]'\n"
    )


def test_the_experiments_are_listed(linear_backprop):
    code, printed = linear_backprop("reproduce", "list")
    assert code == 0
    assert all(name in printed for name in experiment_names() if name != "all")
    assert (
        "images a narrow VGG19 with tanh on a part of CIFAR-10, Backprop against Linear Backprop (by default)"
        in printed
    )


@pytest.mark.parametrize("command", [[], ["reproduce"], ["runs"], ["report"], ["rules"], ["convert-check"]])
def test_help_shows_extras_and_no_type_of_flags(linear_backprop, command):
    code, printed = linear_backprop(*command, "--help")
    assert code == 0 and "<bool>" not in printed and "Show this message and exit" in printed
    assert command != ["reproduce"] or "'.[ray]'" in printed


def test_help_names_every_experiment_and_gives_examples(linear_backprop):
    code, printed = linear_backprop("reproduce", "--help")
    assert code == 0
    assert all(name in printed for name in experiment_names() if name != "all")
    assert "linear-backprop reproduce images --data" in printed
    assert "convert-check" in linear_backprop("--help")[1]
    assert linear_backprop("--version") == (0, "linear-backprop 0.1.0")


@pytest.mark.parametrize(
    "names, expected",
    [
        ([], ["fig1", "images"]),
        (
            ["all"],
            "fig1 images fig2 fig3-left fig3-right fig4 open-settings paper-rate bnn collapse regularizer "
            "transfer-networks transfer".split(),
        ),
        (["fig4", "fig2"], ["fig2", "fig4"]),
        (["images", "fig1-right", "fig1"], ["fig1", "images"]),
        (["fig1-left"], ["fig1"]),
        (["transfer", "fig1"], ["fig1", "transfer-networks", "transfer"]),
    ],
)
def test_names_choose_experiments_and_what_they_need_once(names, expected):
    assert [experiment.name for experiment in experiments_named(names)] == expected


def test_runs_of_images_differ_in_what_is_compared_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("LINEAR_BACKPROP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (images,) = (experiment for experiment in EXPERIMENTS if experiment.name == "images")
    configs = [job.run.config for job in images.jobs(Place(tmp_path), Scale.CPU)]
    varied = {(c["rule"], c["model"]["batch_norm"], c["recipe"]["learning_rate"]) for c in configs}
    assert len(varied) == len(configs) == 8
    for config in configs:
        del config["rule"], config["model"]["batch_norm"], config["recipe"]["learning_rate"]
        assert config == configs[0]
    assert configs[0]["data"] == "digits" and configs[0]["train_images"] == 1500


def test_an_interrupt_while_it_is_imported_has_the_same_exit_code(monkeypatch):
    class Interrupting:
        def find_spec(self, name, path, target=None):
            if name == "linear_backprop_lab.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "linear_backprop_lab.cli")
    monkeypatch.delattr(linear_backprop_lab, "cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_an_interrupt_leaves_records_whole_and_the_next_call_goes_on(tmp_path):
    """Ctrl-C, twice, each time in the middle of an epoch of a real run: in processes of their own, then in this one."""
    environment = {key: value for key, value in os.environ.items() if key != "LINEAR_BACKPROP_DATA"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    options = ["--offline", "--runs", str(tmp_path / "runs"), "--report", str(tmp_path / "report.html")]
    options += ["--only", "batch_norm=false", "--only", "learning_rate=0.002"]
    for epochs, workers in ((1, 2), (2, 1)):
        process = subprocess.Popen(
            [*COMMAND, "reproduce", "images", *options, "--workers", str(workers)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            # A shell's background jobs, and so perhaps this test, ignore Ctrl-C and hand that on.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        try:
            wait_for_lines(process, tmp_path / "runs", epochs)
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=180)
        finally:
            process.kill()
        assert process.returncode == 130
        assert "interrupted; every record is whole: give the same command again to go on" in printed
        assert read(tmp_path / "runs").complete == ()
        assert not (tmp_path / "report.html").exists()
        check_whole(tmp_path / "runs", epochs)


def test_everything_runs_at_the_smallest_scale(linear_backprop, tmp_path, monkeypatch):
    monkeypatch.delenv("LINEAR_BACKPROP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = ("--offline", "--workers", 1, "--runs", tmp_path / "runs", "--report", tmp_path / "REPORT.md")
    code, printed = linear_backprop("reproduce", "all", "--scale", "smoke", *options)
    assert code == 0
    assert "74 runs, 0 of them complete; at most 53 more follow at the settings that turn out best; about " in printed
    assert "31 runs, 0 of them complete; about " in printed
    report = (tmp_path / "REPORT.md").read_text()
    titles = re.findall("^## (.*)$", report, flags=re.MULTILINE)
    assert [
        title.split(":")[0] for title in titles if title.startswith(("Figure", "What", "The paper", "Binarized"))
    ] == [
        "Figure 1",
        "Figure 2",
        "Figure 3, left",
        "Figure 3, right",
        "Figure 4",
        "What the paper leaves open",
        "The paper's learning rate",
        "Binarized ResNet-18 with hard tanh",
    ]
    assert len(read(tmp_path / "runs").complete) == 105


def wait_for_lines(process, root, count):
    deadline = time.monotonic() + 300
    while not any(len(path.read_text().splitlines()) >= count for path in root.glob("*/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)


def check_whole(root, epochs):
    done = []
    for config in root.glob("*/*/config.json"):
        run = Run(root, json.loads(config.read_text()))
        assert run.folder == config.parent
        assert not is_locked(run) and damage(run) is None
        lines = [line["epoch"] for line in run.metrics]
        assert lines == list(range(1, len(lines) + 1))
        checkpoint = run.resume()
        done.append(0 if checkpoint is None else checkpoint["epoch"])
        assert done[-1] in (len(lines), len(lines) - 1)
    assert max(done) >= epochs - 1
