"""Online features: the process that applies the event log to them, and the data they are rebuilt from."""
