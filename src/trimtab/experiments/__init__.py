"""Experiments: declaration, assignment, exposures, sums of closed days, and what these say."""
