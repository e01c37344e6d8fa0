"""Read features from online states."""
