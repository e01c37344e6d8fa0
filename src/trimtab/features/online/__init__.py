"""Features of one request now: a packed state for each view and entity, kept up to date from the log."""
