"""Web pages for people. This package is still empty."""
