"""Several worker processes that answer at one port, and the process that supervises them."""
