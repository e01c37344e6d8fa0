"""Candidates: fits, training windows, comparisons and judgements."""
