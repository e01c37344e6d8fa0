"""The prediction log: encoding, ids, group commit, and buffered writes."""
