"""Load events, compute tables of features, and describe features in a catalogue."""
