"""trimtab: the whole production machine-learning loop in one Python process."""
