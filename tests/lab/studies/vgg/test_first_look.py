import re

import pytest
from lab.made_up import image_run

from linear_backprop_lab.studies.vgg.first_look import images

SLOW = [(2.30, 0.11), (2.28, 0.12), (2.25, 0.14)]
FAST = [(2.20, 0.25), (2.00, 0.30), (1.90, 0.33)]
CHANCE = [(2.31, 0.10), (2.31, 0.11), (2.31, 0.10)]


def verdicts(section):
    return [claim.verdict for claim in section.claims]


def pair(root, backprop, linear, **settings):
    return [image_run(root, "Exact()", backprop, **settings), image_run(root, "Linear()", linear, **settings)]


@pytest.mark.parametrize(
    "backprop, linear, expected",
    [
        (SLOW, FAST, ["holds", "holds", "holds"]),
        (FAST, SLOW, ["holds", "does not hold", "does not hold"]),
        # 1,000 test images: chance is 10 % with a standard error of 0.95 %.
        (FAST, CHANCE, ["does not hold", "does not hold", "does not hold"]),
        # 33 % and 29.3 %: standard errors of 1.49 and 1.44 %, so that 3.7 % is 1.79 of the difference.
        (FAST, [(2.1, 0.293)], ["holds", "holds", "holds"]),
        # 33 % and 28.8 %: 4.2 % is 2.04 of them.
        (FAST, [(2.1, 0.288)], ["holds", "does not hold", "holds"]),
    ],
)
def test_verdicts_follow_the_stated_rules(tmp_path, backprop, linear, expected):
    assert verdicts(images(pair(tmp_path, backprop, linear))) == expected


def test_what_holds_in_one_comparison_alone_holds_partly(tmp_path):
    runs = pair(tmp_path, FAST, CHANCE, batch_norm=True) + pair(tmp_path, SLOW, FAST, batch_norm=False)
    assert verdicts(images(runs)) == ["partly", "partly", "partly"]


def test_each_rule_is_judged_at_its_best_learning_rate(tmp_path):
    runs = pair(tmp_path, SLOW, FAST, learning_rate=0.001) + pair(tmp_path, FAST, CHANCE, learning_rate=0.1)
    section = images(runs)
    assert verdicts(section) == ["holds", "holds", "partly"]
    assert (
        section.claims[1].measured
        == "CIFAR-10, with batch norm: 33.0% (lr 0.001) against 33.0% (lr 0.1) under Backprop"
    )


def test_divergence_is_shown_and_never_ahead(tmp_path):
    section = images(pair(tmp_path, SLOW, [(None, 0.1)]))
    assert verdicts(section) == ["does not hold", "does not hold", "does not hold"]
    assert section.table is not None
    assert section.table.rows[1][4:8] == ("1 of 3", "diverged", "10.0%", "10.0%")
    assert "Linear Backprop, lr 0.01: diverged in epoch 1." in section.figures[0].caption
    assert "10.0% (lr 0.01, before it diverged)" in section.claims[0].measured


def test_the_table_lists_every_run(tmp_path):
    (alone,) = [image_run(tmp_path, "Linear()", FAST, data="digits", batch_norm=False)]
    section = images([alone])
    assert section.claims == () and section.figures == ()
    assert section.table is not None
    assert section.table.rows == (
        ("digits", "no", "Linear Backprop", "0.01", "3 of 3", "1.900", "33.0%", "33.0%", "3 s"),
    )


def test_says_which_data_it_is_of(tmp_path):
    assert "Data: made up." in images(pair(tmp_path, SLOW, FAST)).asked


def test_curves_show_the_recorded_values(tmp_path):
    """The points drawn are an affine map of the recorded ones: slopes between epochs keep their ratio."""
    section = images(pair(tmp_path, SLOW, FAST))
    assert [figure.title for figure in section.figures] == [
        "Test accuracy: CIFAR-10, with batch norm",
        "Training loss: CIFAR-10, with batch norm",
    ]
    drawn = curves(section.figures[1].svg)
    for curve, color in ((SLOW, "#2f86d1"), (FAST, "#d9601a")):
        (x0, y0), (x1, y1), (x2, y2) = drawn[color]
        (a, _), (b, _), (c, _) = curve
        assert x2 - x1 == pytest.approx(x1 - x0, abs=1e-3)
        # Coordinates are rounded to a millionth of a point.
        assert (y2 - y1) / (y1 - y0) == pytest.approx((c - b) / (b - a), rel=1e-3)


def curves(svg):
    """Colour -> points of its first three-point path in an SVG by matplotlib; legends come after curves."""
    found = {}
    for path in re.finditer(r'<path d="(M[^"]*)"[^>]*stroke: (#[0-9a-f]{6})', svg):
        points = [tuple(map(float, xy)) for xy in re.findall(r"[ML] (\S+) (\S+)", path[1])]
        if len(points) == 3:
            found.setdefault(path[2], points)
    return found
