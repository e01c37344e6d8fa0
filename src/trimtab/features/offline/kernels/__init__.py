"""The kernel of each kind of aggregate, and what it computes with: exact sums, windows, orders."""
