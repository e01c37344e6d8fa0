"""Comparison of two variants of an experiment, from sums over the units of each day."""
