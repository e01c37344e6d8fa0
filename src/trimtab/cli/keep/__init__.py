"""Commands for disk usage, retention, backup, recovery and erasure."""
