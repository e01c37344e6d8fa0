"""Join predictions with labels (which may be late, missing or corrected), and sum up their quality by day."""
