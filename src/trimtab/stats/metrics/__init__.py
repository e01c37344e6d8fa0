"""Metrics of answers, with intervals: probabilities, numbers, classes, rankings."""
