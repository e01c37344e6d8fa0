"""Training data: labelled requests from the ingested history and from the prediction log."""
