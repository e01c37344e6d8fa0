"""SQLite backends: partitions of the log, write-ahead logs and their errors."""
