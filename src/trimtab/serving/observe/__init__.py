"""Metrics of serving processes, and logging that is limited when failures repeat."""
