"""Commands that show what has happened in a project."""
