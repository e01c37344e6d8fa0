"""Steps: pure functions of content-addressed inputs, finished once."""
