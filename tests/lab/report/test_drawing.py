import pytest

from linear_backprop_lab.report.drawing import RULE_STYLES, axes, label_ends


def placed(heights, apart):
    with axes() as drawn:
        drawn.set_ylim(0, 1)
        for number, height in enumerate(heights):
            drawn.plot([0, 1], [0.5, height], label=f"line {number}")
        label_ends(drawn, apart=apart)
        return {text.get_text(): text.xy[1] for text in drawn.texts}


def test_names_stand_at_the_ends_of_lines():
    assert placed([0.2, 0.8], 0.1) == {"line 0": pytest.approx(0.2), "line 1": pytest.approx(0.8)}


def test_names_that_collide_are_moved_apart_as_little_as_can_be():
    assert placed([0.5, 0.5], 0.1) == {"line 0": pytest.approx(0.45), "line 1": pytest.approx(0.55)}
    # The third would collide with the second where that was moved to.
    found = placed([0.5, 0.5, 0.58], 0.1)
    assert sorted(found.values()) == [pytest.approx(value) for value in (1.28 / 3, 1.58 / 3, 1.88 / 3)]


def test_names_stay_below_the_upper_end_of_the_axes():
    assert placed([0.99, 1.0], 0.1) == {"line 0": pytest.approx(0.9), "line 1": pytest.approx(1.0)}


def test_a_line_that_ends_where_it_is_not_finite_is_named_where_it_was():
    with axes() as drawn:
        drawn.set_ylim(0, 1)
        drawn.plot([0, 1, 2], [0.1, 0.3, float("nan")], label="it")
        drawn.plot([0, 1], [0.1, 0.2])
        label_ends(drawn)
        assert [(text.get_text(), text.xy[1]) for text in drawn.texts] == [("it", pytest.approx(0.3))]


def test_no_two_rules_share_a_colour_a_marker_or_a_line():
    for key in ("color", "marker", "linestyle"):
        assert len({str(style[key]) for style in RULE_STYLES.values()}) == len(RULE_STYLES)
