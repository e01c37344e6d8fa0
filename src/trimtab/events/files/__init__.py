"""Files and tables of events: CSV, Parquet, NDJSON, Arrow."""
