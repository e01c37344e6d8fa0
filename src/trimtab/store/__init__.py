"""Ports and their embedded backends: Log, Table, KeyValue, Blob, Catalog, opened by URL."""
