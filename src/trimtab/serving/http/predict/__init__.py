"""Predict requests over HTTP: their order, shared calls, refusals, shadows and metrics."""
