"""Descriptions of versions: signatures, model cards, comparisons."""
