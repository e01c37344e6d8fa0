"""What several packages share: errors, clocks, ids, times, hashes, columns, expressions, settings and records."""
