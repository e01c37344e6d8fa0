"""Commands for data in and answers out."""
