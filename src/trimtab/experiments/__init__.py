"""Assignment and analysis of experiments. This package is still empty."""
