"""Everything about a single HTTP request: its messages, access rights, limits, log line and traces."""
