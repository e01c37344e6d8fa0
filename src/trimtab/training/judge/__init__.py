"""Evaluation of fitted models: metrics, baselines, backtests, slices, importance of features."""
