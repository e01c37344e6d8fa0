"""The command line of trimtab: the command `trimtab` with all its subcommands."""

from trimtab.cli.group import main

__all__ = ["main"]
