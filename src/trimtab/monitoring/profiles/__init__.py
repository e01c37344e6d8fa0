"""Profiles of columns: the reference distributions and counts."""
