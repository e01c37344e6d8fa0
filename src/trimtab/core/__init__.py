"""What several rooms share: errors, clocks, ids, time, hashing, columns, expressions, configuration, records."""
