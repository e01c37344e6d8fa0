"""Commands to begin with: init, doctor, version, demo, simulate."""
