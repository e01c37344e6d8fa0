"""Commands that load events, make predictions and compute features."""
