"""One step: forward on the batch, aggregates, and the gradients from a few combinations of samples."""
