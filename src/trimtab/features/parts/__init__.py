"""Features and labels of more events than fit in memory: events are split by key on disk and read part by part."""
