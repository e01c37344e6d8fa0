"""Export of versions as folders, and import of external models."""
