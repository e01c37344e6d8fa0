"""The same loop in virtual time, several policies side by side."""
