"""`python -m linear_backprop_lab`, as `torchrun -m` needs it."""

from linear_backprop_lab.cli import main

if __name__ == "__main__":
    main()
