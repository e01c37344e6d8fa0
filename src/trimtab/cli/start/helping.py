"""The command `help`, which shows the help of a verb."""

from __future__ import annotations

import click

from trimtab.cli.options import command
from trimtab.cli.output import show
from trimtab.cli.printed import Help


def _verbs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    command: click.Command | None = ctx.find_root().command
    for word in ctx.params.get("verbs") or ():
        command = command.get_command(ctx, word) if isinstance(command, click.Group) else None
    return (
        [one for one in command.list_commands(ctx) if one.startswith(incomplete)]
        if isinstance(command, click.Group)
        else []
    )


@command("help")
@click.argument("verbs", nargs=-1, metavar="[VERB...]", shell_complete=_verbs)
def help_(verbs: tuple[str, ...]) -> None:
    """Show the help of trimtab, or of a verb.

    \b
    Example:
      trimtab help
      trimtab help versions
      trimtab help versions list
    """
    context, words = click.get_current_context().find_root(), list(verbs)
    while words:
        if not isinstance(context.command, click.Group):
            raise click.UsageError(f"{context.command_path} has no verbs below it.", context)
        name, found, words = context.command.resolve_command(context, words)
        assert found is not None  # an unknown verb is an error
        context = click.Context(found, info_name=name, parent=context, help_option_names=["-h", "--help"])
    text = context.get_help()
    show(Help(verb=context.command_path, help=text), [text])
