"""Features of more events than memory holds: split by entity on disk, part by part."""
