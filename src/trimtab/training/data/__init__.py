"""Training sets: labelled rows with features as of the time of each row, and checks for leakage."""
