"""Backward rules: values that say what cotangent goes to a pre-activation, or to a layer's input."""
