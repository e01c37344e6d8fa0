"""The event log in columns."""
