"""Filling of views from the history of their sources."""
