"""The autograd Functions that put a rule into a graph."""
