"""The gate: whether a candidate is better than the version in service."""
