"""Evaluation: baselines, backtests, slices, importance."""
