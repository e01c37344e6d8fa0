"""The routes of the HTTP service and their OpenAPI document."""
