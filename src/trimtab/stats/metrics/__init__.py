"""Metrics of predictions, with confidence intervals: for probabilities, numbers, classes and rankings."""
