"""Errors, clocks, ids, time, hashing, columns, expressions, configuration and records that several packages share."""
