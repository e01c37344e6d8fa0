"""What nothing reaches any more: artifacts of versions, and blobs that nothing names."""
