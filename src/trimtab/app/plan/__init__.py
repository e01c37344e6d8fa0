"""Changes of definitions: how they are planned, and how the plan is applied."""
