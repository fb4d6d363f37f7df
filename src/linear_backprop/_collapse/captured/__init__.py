"""The graph that Dynamo captures of a model, and what it does to a few samples."""
