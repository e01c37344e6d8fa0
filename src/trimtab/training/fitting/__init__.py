"""Fitting: from a training set to a fitted model."""
