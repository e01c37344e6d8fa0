"""The encoded online state of one entity in one view, and how events change it."""
