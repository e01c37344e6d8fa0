"""Commands for the HTTP service: run it, and manage its keys, metrics and OpenAPI document."""
