"""Run experiments: assignment, exposures, sums of closed days, and reports."""
