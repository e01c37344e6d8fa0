"""Load model versions within a memory limit, and let each deployment answer with the right ones."""
