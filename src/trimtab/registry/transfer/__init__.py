"""Export of versions as folders, and import of models that were trained elsewhere."""
