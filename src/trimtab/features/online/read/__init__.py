"""Values of features read from packed states."""
