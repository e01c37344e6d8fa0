"""Input checks: hour by hour, the columns, feeds and labels of a model."""
