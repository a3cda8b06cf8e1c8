"""Plugins that other distributions add to the command line by entry points; `nntrain plugins` lists them.

A plugin is anything that can be called: a subscriber's class, or a function. Its parameters are its options, which
pydantic checks by their annotations.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_type_hints

import click

from nntrain.cli.commands import Command, option
from nntrain.cli.exits import Exit
from nntrain.cli.output import say
from nntrain.cli.places import Name, Places
from nntrain.errors import ConfigError
from nntrain.values.calls import meant, probably_meant

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError, ValidationInfo

Kind = Literal["subscribers", "sinks", "sources"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class Plugin:
    """An entry point of the group `nntrain.<kind>`; it is imported only when `options` or `make` is called."""

    kind: Kind
    entry: EntryPoint

    @property
    def name(self) -> str:
        """Its name on the command line and in a configuration."""
        return self.entry.name

    @property
    def distribution(self) -> str:
        """The name and version of the distribution that has it."""
        found = self.entry.dist
        return f"{found.name} {found.version}" if found is not None else "?"

    def __str__(self) -> str:
        return f"The plugin {self.name} of {self.distribution} ({self.entry.value})"

    def options(self) -> type[BaseModel]:
        """Return a pydantic model of its parameters. Raises `ConfigError` where it cannot be made."""
        return options_of(self._load(), self.name, str(self))

    def make(self, given: Mapping[str, object], places: Places | None = None) -> Any:
        """Call it with its options, each checked by its type. Raises `ConfigError` for invalid ones, with its place."""
        from pydantic import ValidationError

        kind = self.options()
        try:
            options = kind.model_validate(dict(given))
        except ValidationError as error:
            raise ConfigError(describe_errors(error, (self.kind, self.name), kind.model_fields, places)) from error
        checked = {name: getattr(options, name) for name in type(options).model_fields}
        try:
            return self._load()(**checked)
        except ConfigError as error:
            raise ConfigError(f"{error}{'' if places is None else places.of((self.kind, self.name))}") from error

    def _load(self) -> Any:
        try:
            target = self.entry.load()
        except Exception as error:
            raise ConfigError(
                f"{self} cannot be imported: {type(error).__name__}: {error}. Repair or remove that distribution."
            ) from error
        if not callable(target):
            expected = f"something that can be called and makes one of the {self.kind}"
            raise ConfigError(f"{self} is {target!r:.60}; expected {expected}.")
        return target


def options_of(
    target: Any, name: str, said: str, around: Callable[..., object] | None = None, without: Container[str] = ()
) -> type[BaseModel]:
    """Return a pydantic model, called `name`, of the parameters of a class or a function, but for those in `without`.

    `around` is a wrap validator for each of them. Raises `ConfigError`, beginning with `said`, where it cannot be made.
    """
    from pydantic import ConfigDict, PydanticUserError, create_model, field_validator

    try:
        hints = hints_of(target)
        parameters = inspect.signature(target).parameters.values()
    except Exception as error:
        raise ConfigError(f"{said} has parameters that cannot be read: {type(error).__name__}: {error}") from error
    fields: dict[str, Any] = {}
    for one in parameters:
        if one.kind in {one.VAR_POSITIONAL, one.VAR_KEYWORD} or one.name in without:
            continue
        if one.kind is one.POSITIONAL_ONLY or one.name not in hints:
            raise ConfigError(f"{said} has a parameter {one.name} without a name to give it by, or without a type.")
        fields[one.name] = (hints[one.name], ... if one.default is one.empty else one.default)
    validators: dict[str, Any] = {"no_bool_for_a_number": field_validator("*", mode="before")(no_bool_for_a_number)}
    if around is not None:
        validators["around"] = field_validator("*", mode="wrap")(around)
    try:
        made: type[BaseModel] = create_model(
            name,
            __config__=ConfigDict(extra="forbid", frozen=True, protected_namespaces=()),
            __validators__=validators,
            **fields,
        )
        made.model_json_schema()
    except PydanticUserError as error:
        raise ConfigError(f"{said} has an option of a type that no configuration can hold: {error}") from error
    return made


def hints_of(target: Any) -> dict[str, Any]:
    """Return the types of the parameters; that of what is returned may be there for type checkers alone."""
    of = target.func if isinstance(target, functools.partial) else target
    of = inspect.unwrap(inspect.getattr_static(of, "__init__") if isinstance(of, type) else of)
    annotations = {name: one for name, one in getattr(of, "__annotations__", {}).items() if name != "return"}
    return get_type_hints(SimpleNamespace(__annotations__=annotations), globalns=getattr(of, "__globals__", {}))


def no_bool_for_a_number(cls: type[BaseModel], given: object, info: ValidationInfo) -> object:
    """Raise `ValueError` for true or false where a number is expected; pydantic would take it for 1 or 0."""
    expected = cls.model_fields[info.field_name or ""].annotation
    kinds = {expected, *get_args(expected)}
    if isinstance(given, bool) and bool not in kinds and kinds & {int, float}:
        raise ValueError("Input should be a valid number, and is true or false")
    return given


def describe_errors(
    error: ValidationError, within: Name, known: Mapping[str, object], places: Places | None = None
) -> str:
    """Return pydantic's errors as lines, each with its place in the configuration, and the likely word of `known`."""
    lines = []
    for one in error.errors():
        words = tuple(map(str, one["loc"]))
        name = (*within, *words)
        place = "" if places is None else places.of(name)
        given = "" if one["type"] in {"missing", "extra_forbidden"} else f"; got {one['input']!r:.60}"
        said = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden" and len(words) == 1:
            lines.append(f"{'.'.join(name)}: there is no such option{place}.{probably_meant(words[0], known)}")
        else:
            lines.append(f"{'.'.join(name)}: {said}{given}{place}")
    return "\n".join(lines)


def find_plugins(kind: Kind) -> dict[str, Plugin]:
    """Return the plugins of a kind by name. Raises `ConfigError` where two distributions use one name."""
    plugins: dict[str, Plugin] = {}
    for entry in entry_points(group=f"nntrain.{kind}"):
        plugin = Plugin(kind, entry)
        other = plugins.setdefault(plugin.name, plugin)
        if other.entry.value != entry.value:
            raise ConfigError(
                f"Two distributions call one of their {kind} {plugin.name}: {other.distribution} ({other.entry.value}) "
                f"and {plugin.distribution} ({entry.value}). Remove one of them."
            )
    return dict(sorted(plugins.items()))


def get_plugin(kind: Kind, name: str, places: Places | None = None) -> Plugin:
    """Return a plugin by name. Raises `ConfigError` with the existing names, and the place of the one that is none."""
    there = find_plugins(kind)
    if name not in there:
        others = [other for other in KINDS if other != kind and name in find_plugins(other)]
        instead = f" It is among the {others[0]}." if others else meant(name, there) or " There are none."
        raise ConfigError(
            f"No distribution here has {name!r} among its {kind}{'' if places is None else places.of((kind, name))}."
            f"{instead} `nntrain plugins` lists them."
        )
    return there[name]


@click.command(
    cls=Command,
    short_help="List subscribers, sinks and data sources by name.",
    examples=(
        "nntrain plugins",
        "nntrain plugins --json | jq .options",
        "nntrain fit --subscriber nan_guard --set subscribers.nan_guard.every=10",
    ),
)
@option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def plugins(as_json: bool) -> None:
    """List the subscribers, sinks and data sources that you can use by name.

    The exit code is 1 if one of them cannot be used.
    """
    broken = False
    for kind in KINDS:
        for plugin in find_plugins(kind).values():
            options, problem = _describe(plugin)
            broken = broken or problem is not None
            if as_json:
                row: dict[str, object] = {"kind": kind, "name": plugin.name, "distribution": plugin.distribution}
                row |= {"target": plugin.entry.value, "options": options, "problem": problem}
                say(json.dumps(row, ensure_ascii=False), longest=1 << 20)
            else:
                what = problem or ", ".join(f"{name}={default}" for name, default in options.items())
                say(f"{kind:<12} {plugin.name:<16} {plugin.distribution:<20} {what}")
    if broken:
        raise SystemExit(Exit.WRONG)


def _describe(plugin: Plugin) -> tuple[dict[str, Any], str | None]:
    """Return a plugin's options with their defaults, and what is wrong with it, if anything."""
    try:
        fields = plugin.options().model_fields
    except ConfigError as error:
        return {}, str(error)
    return {name: "(needed)" if one.is_required() else one.default for name, one in fields.items()}, None
