"""The commands `plan` and `power`."""

from trimtab.cli.options import command


@command("plan")
def plan() -> None:
    """Plan."""


@command("power")
def power() -> None:
    """Power."""
