"""Immutable versions, aliases with their history, gate records."""
