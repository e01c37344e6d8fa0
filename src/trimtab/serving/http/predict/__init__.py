"""Predictions over HTTP: scheduling, batching, shadows and metrics."""
