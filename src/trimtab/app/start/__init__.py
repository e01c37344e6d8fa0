"""New projects, demos and replays."""
