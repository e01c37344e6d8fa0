"""Versions of models: aliases, arms, import, comparison, evaluation reports, garbage collection."""
