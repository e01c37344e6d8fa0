"""Commands that train, judge and promote."""
