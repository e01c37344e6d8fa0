"""The gate: it decides whether a candidate is better than the version in service."""
