"""Versions that leave as folders, and models of elsewhere that come in."""
