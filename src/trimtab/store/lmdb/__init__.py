"""The LMDB key-value store."""
