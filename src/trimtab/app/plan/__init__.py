"""Changes of definitions: the plan, and how it is applied."""
