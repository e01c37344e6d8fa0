"""Loading events and computing features for tables, catalogue and files."""
