"""From outcomes and logged inputs to signals with a stated false-alarm rate, and from signals to alerts."""
