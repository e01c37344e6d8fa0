"""The version of trimtab."""

VERSION = "0.1.0"
