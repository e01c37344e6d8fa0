"""Receivers of alerts by kind: HTTP, mail, files and programs."""
