"""From outcomes to daily quality summaries and signals with a stated false-alarm rate."""
