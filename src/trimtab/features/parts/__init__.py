"""Features of more events than fit in memory: events are split by entity on disk and evaluated part by part."""
