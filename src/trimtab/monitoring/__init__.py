"""Monitoring: find out from labels and inputs when a model gets worse, with few false alarms, and send alerts."""
