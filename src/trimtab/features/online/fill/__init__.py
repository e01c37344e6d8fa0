"""Views filled from history."""
