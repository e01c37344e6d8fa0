"""The training loop of each deployment: it trains, tests and promotes versions, and searches parameters."""
