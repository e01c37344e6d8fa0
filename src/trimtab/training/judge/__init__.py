"""Evaluation of fitted models: baselines, backtests, slices, importance."""
