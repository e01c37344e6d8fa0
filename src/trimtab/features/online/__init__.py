"""Features of one request now, from a packed state for each view and entity that is kept up to date from the log."""
