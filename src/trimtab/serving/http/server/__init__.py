"""The HTTP server: sockets, TLS, and the fast path for predictions."""
