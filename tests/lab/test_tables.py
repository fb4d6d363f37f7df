"""What the command line prints in rows."""

import math

from rich.console import Console

from linear_backprop.diagnostics import Alignment
from linear_backprop_lab._tables import alignment_table


def test_a_cosine_that_is_none_says_why_and_names_are_no_markup(capsys):
    nan = math.nan
    norms = {"[red]w": (1.0, 1.0), "a": (0.0, 0.0), "b": (0.0, 1.0), "c": (1.0, 0.0), "d": (nan, 1.0)}
    cosines = {name: 0.5 if name == "[red]w" else nan for name in norms}
    Console(width=80).print(alignment_table(Alignment(0.5, cosines, 1.0, norms)))
    rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    expected = ["[red]w +0.500", "a no gradient", "b zero under the rule", "c zero under Backprop", "d not finite"]
    assert rows[1:6] == expected
