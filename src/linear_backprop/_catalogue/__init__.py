"""The functions and modules of PyTorch that the library knows by name."""
