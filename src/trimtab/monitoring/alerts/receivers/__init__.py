"""Delivery of alerts by HTTP, by email, to files and to programs."""
