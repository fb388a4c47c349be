"""``trainbus help``: what ``--help`` says, for those who ask for it by a word."""

from __future__ import annotations

import click


@click.command(name="help")
@click.argument("words", nargs=-1, metavar="[COMMAND...]")
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Explain trainbus, or one command: `trainbus help checkpoints prune`."""
    context = ctx.parent
    assert context is not None, "it is a command of trainbus"
    for word in words:
        group = context.command
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            raise click.UsageError(f"There is no command `{' '.join(words)}`.", context)
        context = click.Context(found, parent=context, info_name=word, **found.context_settings)
    click.echo(context.get_help())
