"""Named columns with nulls, their exchange with Arrow, and how they are shown."""
