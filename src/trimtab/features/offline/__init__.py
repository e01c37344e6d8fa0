"""Features of many requests at once: columns, prefix sums, no state."""
