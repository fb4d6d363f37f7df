"""What every operation of a captured graph is, why a model is refused, and what is run in a step."""
