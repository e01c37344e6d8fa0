"""Training data from ingested history and the prediction log, and the labels and newest events that loops read."""
