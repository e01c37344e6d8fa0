"""The data file: its texts, types, formats and oddities."""
