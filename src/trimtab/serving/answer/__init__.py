"""Answer requests in the same process: check rows, read model inputs, and compute scores."""
