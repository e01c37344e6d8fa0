"""The loop of one deployment: what triggers a new version, and the stages until it is in service."""
