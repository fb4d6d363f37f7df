"""The section on the default command's runs: the same claims as figures 2 and 4, chosen on the test set alone."""

import re

import pytest
from lab.made_up import image_run

from linear_backprop_lab.studies.vgg.figure4 import first_look

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
        (FAST, [(2.1, 0.293)], ["holds", "no difference seen", "holds"]),
        # 33 % and 28.8 %: 4.2 % is 2.04 of them.
        (FAST, [(2.1, 0.288)], ["holds", "does not hold", "holds"]),
        (SLOW, [(None, 0.1)], ["does not hold", "does not hold", "does not hold"]),
    ],
)
def test_verdicts_follow_the_stated_rules(tmp_path, backprop, linear, expected):
    assert verdicts(first_look(pair(tmp_path, backprop, linear))) == expected


def test_what_holds_in_one_network_alone_holds_partly(tmp_path):
    runs = pair(tmp_path, FAST, CHANCE, batch_norm=True) + pair(tmp_path, SLOW, FAST, batch_norm=False)
    assert verdicts(first_look(runs)) == ["partly", "partly", "partly"]


def test_each_rule_is_judged_at_its_best_learning_rate(tmp_path):
    runs = pair(tmp_path, SLOW, FAST, learning_rate=0.001) + pair(tmp_path, FAST, CHANCE, learning_rate=0.1)
    section = first_look(runs)
    assert verdicts(section) == ["holds", "no difference seen", "partly"]
    assert section.claims[0].measured == "with batch norm: 33.0% (lr 0.001, l2 0, epoch 3), chance 10%"
    assert section.claims[1].measured == "with batch norm: 33.0% against 33.0%"


def test_a_rule_alone_is_listed_and_nothing_is_claimed(tmp_path):
    section = first_look([image_run(tmp_path, "Linear()", FAST, batch_norm=False)])
    assert section.claims == () and section.figures == ()
    assert section.table is not None
    expected = ("no batch norm", "Linear Backprop", "0.01", "0", "2.200", "33.0%", "33.0%", "finished, epoch 3")
    assert section.table.rows == (expected,)


def test_curves_show_the_recorded_values(tmp_path):
    """The points drawn are an affine map of the recorded ones: slopes between epochs keep their ratio."""
    (figure,) = first_look(pair(tmp_path, SLOW, FAST)).figures
    drawn = curves(figure.svg)
    for curve, color in ((SLOW, "#2f86d1"), (FAST, "#d9601a")):
        (x0, y0), (x1, y1), (x2, y2) = drawn[color]
        (_, a), (_, b), (_, c) = curve
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
