"""Metrics of predictions with intervals: probabilities, numbers, classes, rankings."""
