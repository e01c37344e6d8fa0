"""Commands for registered versions."""
