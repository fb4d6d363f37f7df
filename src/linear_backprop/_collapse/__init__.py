"""The collapsed backward pass."""
