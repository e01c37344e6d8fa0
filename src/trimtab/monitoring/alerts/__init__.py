"""Alerts: records, outbox, mutes, and receivers."""
