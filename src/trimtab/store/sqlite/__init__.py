"""Parts of the stores in SQLite files: partitions of the log, write-ahead logs, errors."""
