"""Retention, erasure, backup, recovery and disk usage."""
