"""Kernels: the computation of each kind of aggregate for many requests, with exact sums, windows and orders."""
