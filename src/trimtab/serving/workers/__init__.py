"""Worker processes that answer behind one port, and their supervisor."""
