"""Loaded versions: one served model per deployment, within a memory limit."""
