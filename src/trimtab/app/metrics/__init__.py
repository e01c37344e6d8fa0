"""Metrics of the loop, and the Prometheus rules that use them."""
