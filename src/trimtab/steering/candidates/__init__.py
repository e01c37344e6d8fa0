"""Candidates: recipes, training windows, comparisons and stored trials."""
