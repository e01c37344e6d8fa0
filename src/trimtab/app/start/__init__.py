"""New projects, and demos."""
