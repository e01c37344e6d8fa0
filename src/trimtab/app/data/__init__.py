"""Training data: labelled requests from ingested history and from the prediction log."""
