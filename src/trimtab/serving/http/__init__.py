"""The HTTP service: requests, routes, predictions and the server."""
