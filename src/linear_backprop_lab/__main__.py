"""The command `linear-backprop`, also as `python -m linear_backprop_lab`, as `torchrun -m` needs it."""

from __future__ import annotations

import sys

_OURS = ("linear_backprop", "linear_backprop_lab")


def main() -> None:
    """Run the command line, or say what to install for it; exit with 130 where it is interrupted."""
    try:
        from linear_backprop_lab import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        sys.exit(
            f"linear-backprop: {error.name} is not installed; the command needs the lab, in the clone: "
            f"pip install '.[lab]'"
        )
    except KeyboardInterrupt:  # importing takes seconds
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
