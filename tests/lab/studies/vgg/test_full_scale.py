"""The section on figure 2 at the paper's own size, from runs with curves of one's choosing."""

import pytest
from lab.made_up import sweep_run, unfinished

from linear_backprop_lab.report import ReportError
from linear_backprop_lab.studies import gather
from linear_backprop_lab.studies.vgg.figure2 import figure2
from linear_backprop_lab.studies.vgg.full_scale import full_scale

BACKPROP, LINEAR = "Exact()", "Linear()"
FULL = {"width": 1.0, "train_images": 45_000, "learning_rate": 0.001, "penalty": 1e-4}


def both(root, backprop, linear, **settings):
    settings = {**FULL, **settings}
    return [sweep_run(root, BACKPROP, backprop, **settings), sweep_run(root, LINEAR, linear, **settings)]


# 1,000 test images: 1.96 standard errors of a difference of accuracies near 30 % are 4.0 %, near 20 % 3.5 %.
@pytest.mark.parametrize(
    "backprop, linear, verdicts",
    [
        ([0.2, 0.3, 0.3, 0.3], [0.3, 0.4, 0.4, 0.2], ["holds", "holds"]),
        ([0.2, 0.3, 0.3, 0.3], [0.23, 0.4, 0.2, 0.2], ["does not hold", "does not hold"]),
        # One of four may be lost: with two lost it is decided, with one it is not.
        ([0.2, 0.3], [0.1, 0.2], ["does not hold", "does not hold"]),
        ([0.2, 0.3], [0.3, 0.2], ["holds", "not decided"]),
        ([0.2, 0.3, 0.3], [0.3, 0.4, 0.4], ["holds", "holds"]),
        # As many as both have are compared.
        ([0.2, 0.3, 0.3, 0.3], [0.3], ["holds", "not decided"]),
    ],
)
def test_the_lead_is_judged_by_the_epochs_that_there_are(tmp_path, backprop, linear, verdicts):
    runs = both(tmp_path, backprop, linear, epochs=4)
    for run in runs:
        if len(run.metrics) < 4:
            unfinished(run)
    section = gather(tmp_path).chapters[0].section
    assert [claim.verdict for claim in section.claims] == verdicts
    assert section.table is not None
    assert [row[4] for row in section.table.rows] == [f"{len(backprop)} of 4", f"{len(linear)} of 4"]


def test_runs_that_go_on_are_shown_as_that(tmp_path):
    for run in both(tmp_path, [0.2, 0.3], [0.3, 0.4], epochs=100):
        unfinished(run)
    section = gather(tmp_path).chapters[0].section
    assert section.id == "fig2-full" and "not finished" in section.badges
    assert "of 100 epochs each there are so far Backprop 2, Linear Backprop 2" in section.asked
    assert section.finding == (
        "At the paper's own size, with batch norm, lr 0.001, l2 0.0001, Linear Backprop is ahead after 2 of 2 epochs: "
        "30.0% against 20.0% test accuracy after the first, 40.0% against 30.0% after epoch 2 of 100; it is not "
        "finished."
    )
    assert section.headline == section.figures[0]


def test_the_longest_curves_come_first(tmp_path):
    runs = both(tmp_path, [0.2], [0.1], epochs=100, batch_norm=False)
    runs += both(tmp_path, [0.2, 0.3], [0.3, 0.4], epochs=100, batch_norm=True)
    for run in runs:
        unfinished(run)
    section = gather(tmp_path).chapters[0].section
    assert [figure.title.split(",")[1] for figure in section.figures] == [" with batch norm", " no batch norm"]
    assert section.headline == section.figures[0] and "with batch norm" in section.finding


def test_the_lead_in_training_is_counted_apart(tmp_path):
    backprop = sweep_run(tmp_path, BACKPROP, [0.2, 0.3, 0.4], losses=[2.1, 1.9, 1.8], **FULL)
    linear = sweep_run(tmp_path, LINEAR, [0.3, 0.2, 0.1], losses=[1.9, 1.8, None], **FULL)
    lasts = full_scale([backprop, linear]).claims[1]
    assert lasts.measured.endswith(
        "ahead after 1 of 3 epochs; after epoch 3 10.0% against 40.0%; its training loss is the lower after 2 of these "
        "epochs"
    )


def test_a_lead_that_ends_in_divergence_has_not_lasted(tmp_path):
    unfinished(sweep_run(tmp_path, BACKPROP, [0.2, 0.3], epochs=100, **FULL))
    sweep_run(tmp_path, LINEAR, [0.3, 0.1], losses=[1.9, None], epochs=100, **FULL)
    section = gather(tmp_path).chapters[0].section
    assert [claim.verdict for claim in section.claims] == ["holds", "does not hold"]
    assert section.finding.endswith(" With batch norm, lr 0.001, l2 0.0001, it diverged in epoch 2.")
    assert "not finished" not in section.finding


def test_a_single_setting_at_full_size_takes_nothing_from_a_smaller_sweep(tmp_path):
    small = []
    for penalty in (0.1, 0.001):
        small += [
            sweep_run(tmp_path, rule, [0.2, 0.3], penalty=penalty, train_images=2000) for rule in (BACKPROP, LINEAR)
        ]
    assert figure2([*small, *both(tmp_path, [0.5], [0.6])]).table == figure2(small).table


def test_the_small_scale_at_the_same_rate_stands_beside_it(tmp_path):
    runs = both(tmp_path, [0.2], [0.3])
    for penalty, rate in ((1e-3, 0.001), (1e-1, 0.001), (1e-4, 0.01)):
        settings = {"experiment": "paper-rate", "penalty": penalty, "learning_rate": rate}
        runs += [sweep_run(tmp_path, rule, [0.1], **settings) for rule in (BACKPROP, LINEAR)]
    (figure,) = full_scale(runs).figures
    assert "the small scale at the same learning rate, l2 0.001, seed 0" in figure.caption
    assert "width 1/2, 2,000 images: the same steps" in figure.svg
    assert gather(tmp_path).chapters[0].section.badges == ()  # of the runs that it is about


def test_the_command_makes_the_setting_of_the_longest_curves_again(tmp_path):
    runs = both(tmp_path, [0.2], [0.1]) + both(tmp_path, [0.2, 0.3], [0.3, 0.4], batch_norm=False, penalty=0.01)
    settings = "--only batch_norm=false --only learning_rate=0.001 --only weight_decay=0.01"
    assert full_scale(runs).rerun == f"linear-backprop reproduce fig4 --scale paper {settings}"
    assert "batch_norm=true" in full_scale(runs[:1]).rerun


def test_smaller_runs_alone_have_no_such_section(tmp_path):
    sweep_run(tmp_path, LINEAR, [0.3], experiment="paper-rate")
    assert [chapter.section.id for chapter in gather(tmp_path).chapters] == ["paper-rate"]
    unfinished(sweep_run(tmp_path / "b", LINEAR, [0.3]))
    with pytest.raises(ReportError, match="no complete run"):
        gather(tmp_path / "b")
