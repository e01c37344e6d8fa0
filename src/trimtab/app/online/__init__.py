"""Keep online features up to date with the event log, and rebuild them from history."""
