"""Alerts: their delivery to receivers, their overview, and mutes."""
