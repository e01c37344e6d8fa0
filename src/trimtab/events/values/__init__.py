"""Checks of values, and their conversion to the types of columns."""
