"""Pages for people (grow with their capability)."""
