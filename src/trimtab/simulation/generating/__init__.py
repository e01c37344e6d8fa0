"""Generate histories whose best possible predictions are known."""
