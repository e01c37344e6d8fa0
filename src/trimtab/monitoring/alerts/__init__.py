"""Alerts: which messages are sent, to whom, and their delivery."""
