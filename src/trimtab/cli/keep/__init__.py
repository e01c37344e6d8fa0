"""Commands for retention, backup and erasure."""
