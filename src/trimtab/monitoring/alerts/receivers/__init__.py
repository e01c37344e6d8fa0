"""Ways to people: one file a kind of receiver, and `sending.py`, which chooses."""
