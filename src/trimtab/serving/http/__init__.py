"""The HTTP service: the server, requests and their limits, predictions, and all other routes."""
