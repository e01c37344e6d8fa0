"""The `trimtab` command: everything that a project can do, from a shell."""

from trimtab.cli.group import main

__all__ = ["main"]
