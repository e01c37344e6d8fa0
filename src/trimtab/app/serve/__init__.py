"""The service: `trimtab serve`, its workers, background tasks and operations."""
