"""Protect a service from overload and failures: admission, circuit breakers, degraded responses."""
