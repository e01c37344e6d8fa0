"""Serving: answers in process, over HTTP, in batch, precomputed; online learning; the prediction log."""
