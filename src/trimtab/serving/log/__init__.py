"""The prediction log: its layout, ids, group commit and buffered writes."""
