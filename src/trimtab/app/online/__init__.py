"""Online features: the process that applies the event log, and what they are rebuilt from."""
