"""Read experiments: checks, effects over time, the recommendation, and what a run on past units would have said."""
