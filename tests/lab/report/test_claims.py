import pytest

from linear_backprop_lab.report import all_or_some, by_direction, by_share


@pytest.mark.parametrize(
    "outcomes, verdict",
    [
        ([], "not decided"),
        ([1, 1], "holds"),
        ([1, 0], "partly"),
        ([1, -1], "partly"),
        ([0, 0], "no difference seen"),
        ([0, -1], "does not hold"),
        ([-1], "does not hold"),
    ],
)
def test_no_difference_is_told_from_the_opposite(outcomes, verdict):
    assert by_direction(outcomes) == verdict
    if 0 not in outcomes:
        assert all_or_some([outcome > 0 for outcome in outcomes]) == verdict


@pytest.mark.parametrize(
    "outcomes, verdict",
    [([], "not decided"), ([1, 1, 1, 0], "holds"), ([1, 0], "partly"), ([1, 0, 0], "does not hold")],
)
def test_a_share_is_held_against_two_bounds(outcomes, verdict):
    assert by_share(outcomes, most=0.75, some=0.5) == verdict
