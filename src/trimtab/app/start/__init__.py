"""The demo, and new projects."""
