"""The HTTP server: sockets, TLS, and a fast path for predict requests."""
