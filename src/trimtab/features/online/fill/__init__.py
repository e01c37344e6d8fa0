"""Filling: compute the online states of a view from the history of its source."""
