"""Commands that train, test and promote versions."""
