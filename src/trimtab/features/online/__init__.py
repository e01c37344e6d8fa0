"""Features of one request now. For each view and entity there is a stored state, which follows the event log."""
