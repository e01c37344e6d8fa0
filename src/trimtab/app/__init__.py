"""Wires the rooms into a project: open, push, predict, train, tick, serve."""
