"""PyTorch's private interfaces in one place: the folder to read again with every new version of PyTorch."""
