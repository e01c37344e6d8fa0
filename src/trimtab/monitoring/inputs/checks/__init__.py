"""Checks of inputs: columns, shapes, labels, traffic and feeds."""
