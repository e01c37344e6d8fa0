"""Metrics of a serving process, and throttled logging."""
