"""Sources: from raw records to validated, de-duplicated events in the log; quarantine; columnar history."""
