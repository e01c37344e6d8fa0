"""The kernel of each kind of aggregate, and the exact sums, windows and orders that the kernels use."""
