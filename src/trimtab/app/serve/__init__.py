"""The service: `trimtab serve`, its workers, its background tasks and its operations."""
