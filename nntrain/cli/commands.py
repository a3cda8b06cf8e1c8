"""What the commands are made of: help that fits a screen, with examples and groups of options, and likely names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

_ALL: Final = "nntrain.help_all"
_OPTIONS: Final = "Options"
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class Option(click.Option):
    """An option in a group of the help. A `rare` one is shown by `--help-all` alone.

    `elsewhere` is what other tools call it: whoever gives one of these is told this option's name.
    """

    def __init__(
        self, *args: Any, group: str = _OPTIONS, rare: bool = False, elsewhere: Sequence[str] = (), **attrs: Any
    ) -> None:
        self.group = group
        self.rare = rare
        self.elsewhere = elsewhere
        super().__init__(*args, **attrs)


def option(
    *names: str, group: str = _OPTIONS, rare: bool = False, elsewhere: Sequence[str] = (), **attrs: Any
) -> Callable[[_Decorated], _Decorated]:
    """Return a decorator that adds an `Option`; its arguments are those of `click.option`."""
    return click.option(*names, cls=Option, group=group, rare=rare, elsewhere=elsewhere, **attrs)


class Command(click.Command):
    """A command whose help shows examples, and then its options in groups.

    Where options are rare, `--help` leaves them out, and the command has `--help-all`.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.examples = examples
        if any(_is_rare(one) for one in self.params):
            said = "Show all options, also the rare ones."
            self.params.append(
                click.Option(["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_all, help=said)
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Raises `NoSuchOption`, with the likely one, for an option that there is not."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            given = error.option_name.lstrip("-").replace("_", "-").lower()
            known = [one.opts[0] for one in self.params if isinstance(one, Option) and given in one.elsewhere]
            if not known:
                raise
            said = f"No such option {error.option_name!r}. Did you mean {' or '.join(map(repr, known))}?"
            raise click.NoSuchOption(error.option_name, said, ctx=ctx) from None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage, what it does, examples, and the options."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                write_lines(formatter, self.examples)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each group, below one another."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if isinstance(one, click.Option) and record is not None and (ctx.meta.get(_ALL) or not _is_rare(one)):
                groups.setdefault(getattr(one, "group", _OPTIONS), []).append((record[0], _said(one)))
        groups[_OPTIONS] = groups.pop(_OPTIONS)  # --help is among them: they come last
        width = max(len(names) for records in groups.values() for names, _ in records)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl([(f"{names:<{width}}", said) for names, said in records], col_max=width)


class Group(Command, click.Group):
    """A group of commands. Of a command that there is not, it says which was probably meant."""

    command_class: type[click.Command] | None = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named. Raises `UsageError` with the likely one where there is none."""
        from nntrain.values.calls import meant

        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}.{meant(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def write_lines(formatter: click.HelpFormatter, lines: Sequence[str]) -> None:
    """Write lines as they are, indented."""
    for line in lines:
        formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _said(one: click.Option) -> str:
    """Return what the help says of an option; which numbers it takes, its error says."""
    default = f"  [{one.default}]" if one.show_default else ""
    return f"{one.help or ''}{'  [needed]' if one.required else default}"


def _is_rare(one: click.Parameter) -> bool:
    return isinstance(one, Option) and one.rare


def _all(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
