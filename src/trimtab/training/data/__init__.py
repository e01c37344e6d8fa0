"""Training sets: labelled rows with features as of their time, and leakage checks."""
