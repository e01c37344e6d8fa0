"""Conversion and checks of values."""
