"""Assignment and analysis of experiments (grows with its capability)."""
