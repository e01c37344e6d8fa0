"""Replay a recorded or generated history under several scenarios, and report the results."""
