"""Protection under load and failure: admission, circuit breaker, degraded responses."""
