"""The state folder and what the catalogue keeps of a project's definitions."""
