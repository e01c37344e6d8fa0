"""Alerts: delivery to receivers, the overview, and mutes."""
