"""Intervals, paired and sequential tests, e-processes: from samples to statements with stated error rates."""
