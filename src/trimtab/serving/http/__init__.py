"""The HTTP service: a direct road for predictions, raw ASGI for the rest."""
