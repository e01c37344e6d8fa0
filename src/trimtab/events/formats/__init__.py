"""How texts write values: declared formats of times and numbers, and the rules of reading of a source."""
