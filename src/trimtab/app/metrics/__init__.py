"""Metrics of the training loop, and the Prometheus rules that use them."""
