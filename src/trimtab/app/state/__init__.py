"""The state folder of a project: its stores, its locks, and the applied definitions."""
