"""Candidates for a new version: how they are fitted, what they are compared with, and how they are judged."""
