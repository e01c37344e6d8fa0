"""Delta Lake tables, read and written with DuckDB."""
