"""Bootstrap intervals, tests that compare two models, and an alarm for a changed mean."""
