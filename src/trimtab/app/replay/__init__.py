"""Replays of a recorded or generated history: scenarios, their process, and the report."""
