"""One HTTP request: wire format, access rights, limits, access log and traces."""
