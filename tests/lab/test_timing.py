import time

import pytest

from linear_backprop_lab.timing import medians, seconds


def test_candidates_take_turns_after_a_call_each_that_does_not_count():
    calls = []

    def candidate(name, times):
        times = iter(times)
        return lambda: calls.append(name) or next(times)

    found = medians({"a": candidate("a", [100, 3, 1, 2]), "b": candidate("b", [200, 5, 5, 9])}, rounds=3)
    turns = [calls[i : i + 2] for i in range(0, 8, 2)]
    assert all(sorted(turn) == ["a", "b"] for turn in turns)
    assert len({*map(tuple, turns)}) == 2  # in either order
    assert found == {"a": 2, "b": 5}


def test_seconds_are_those_of_one_call():
    # Sleeping never takes less; a busy machine may take far longer.
    taken = seconds(lambda: time.sleep(0.02), repeats=3)
    assert 0.02 <= taken < 1


def test_the_work_is_repeated():
    done = []
    assert seconds(lambda: done.append(1), repeats=5) == pytest.approx(0, abs=1)
    assert len(done) == 5
