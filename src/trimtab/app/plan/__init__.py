"""Compare a changed project file with the applied definitions, and apply the changes."""
