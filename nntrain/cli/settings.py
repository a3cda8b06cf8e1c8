"""The configuration of `nntrain fit`: from flags, then the environment, then a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import click
from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, WithJsonSchema, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from nntrain.cli.output import say
from nntrain.cli.places import Name, Places
from nntrain.cli.plugins import KINDS, describe_errors, find_plugins, get_plugin, no_bool_for_a_number
from nntrain.errors import ConfigError
from nntrain.values.calls import probably_meant

Options = dict[str, dict[str, Any]]
"""Plugins by name, each with its options."""
_PREFIX: Final = "NNTRAIN_"
_TABLES: Final = (*KINDS, "parameters")
"""The options that are tables of others."""


_INTERVAL: Final = r"^([1-9][0-9]*|([1-9][0-9]*(\.[0-9]+)?|0\.[0-9]*[1-9][0-9]*)s|all|none)$"


def _interval(given: object) -> object:
    """Return the text of an interval. Raises `ValueError` for what is none."""
    text = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
    if not (isinstance(text, str) and re.fullmatch(_INTERVAL, text, re.ASCII)):
        raise ValueError(
            "Input should be a number of batches from 1 up, a number of seconds like '1s', 'all' or 'none'"
        )
    return text


class FitConfig(BaseSettings):
    """The options of `nntrain fit`; in the environment `NNTRAIN_LR`, or `NNTRAIN_SUBSCRIBERS__NAN_GUARD__EVERY`."""

    # Not by the class's keyword, as our records: pydantic's own base of settings is not frozen.
    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True, env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid"
    )

    data: Annotated[
        str,
        Field(description="digits, fashion-mnist, a folder of images or a saved dataset, or the name of a data source"),
    ] = "digits"
    data_dir: Annotated[Path | None, Field(description="the folder of Fashion-MNIST's four idx files")] = None
    epochs: Annotated[int, Field(ge=0)] = 10
    steps: Annotated[int | None, Field(ge=1, description="train so many optimizer steps, in place of epochs")] = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False, description="the learning rate")] = 0.2
    hidden: Annotated[int, Field(ge=1, le=1 << 20, description="width of the hidden layer")] = 50
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    parallel: Annotated[
        Literal["data", "sharded"] | None,
        Field(description="how the processes that torchrun starts share the training"),
    ] = None
    oom: Annotated[Literal["raise", "halve"], Field(description="what becomes of a batch that runs out of memory")] = (
        "raise"
    )
    deterministic: Annotated[bool, Field(description="only operations with the same bits in each run")] = False
    patience: Annotated[int | None, Field(ge=1, description="epochs without a better eval loss, then stop")] = None
    log: Annotated[Path | None, Field(description="where to write the event log; - is the standard output")] = None
    log_every: Annotated[
        str,
        BeforeValidator(_interval),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _INTERVAL}]}),
        Field(description="log a batch every so many seconds (1s), every Nth of a phase, all or none"),
    ] = "1s"
    checkpoint_dir: Annotated[Path | None, Field(description="the folder for checkpoints")] = None
    save_every: Annotated[int | None, Field(ge=1, description="save after every N steps, too")] = None
    resume: Annotated[bool, Field(description="go on from the newest whole checkpoint")] = False
    quiet: Annotated[bool, Field(description="print no statistics")] = False
    subscribers: Options = {}
    sinks: Options = {}
    sources: Annotated[Options, Field(description="options of the data source that `data` names")] = {}
    parameters: Annotated[dict[str, Any], Field(description="parameters of the function that TARGET is")] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _check_numbers(cls, given: object, info: ValidationInfo) -> object:
        return no_bool_for_a_number(cls, given, info)


def read_config(path: Path | None, flags: Mapping[str, Any]) -> FitConfig:
    """Return the configuration: of each option the flag, else the environment, else the file, else the default.

    Raises `ConfigError` with each invalid option and its place.
    """
    return read_places(path, flags)[0]


def read_places(path: Path | None, flags: Mapping[str, Any]) -> tuple[FitConfig, Places]:
    """Return the configuration as `read_config`, and where its options stand."""

    class Read(FitConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic passes it by name
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - same
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """Return the flags, the environment and the file, in this order."""
            return init_settings, env_settings, InitSettingsSource(settings_cls, content)

    text, content = ("", {}) if path is None else _read(path)
    places = Places(_PREFIX, flags, path, text)
    _warn_of_unknown(places.variables)
    try:
        return Read(**flags), places
    except ValidationError as error:
        known = FitConfig.model_fields
        unknown = any(one["type"] == "extra_forbidden" and len(one["loc"]) == 1 for one in error.errors())
        raise ConfigError(
            describe_errors(error, (), known, places) + (f"\nThere are {', '.join(known)}." if unknown else "")
        ) from error
    except SettingsError as error:
        named = ", ".join(variable for name, variable in places.variables.items() if name[0] in _TABLES)
        raise ConfigError(
            f"The environment's {_PREFIX}... cannot be read: {error}. Of {named}, one is no JSON object."
        ) from error


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return text, tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The configuration {path} is no TOML: {error}.") from error


def _warn_of_unknown(variables: Mapping[Name, str]) -> None:
    """Print a line to stderr for each variable that is none of an option."""
    known = FitConfig.model_fields
    for name, variable in variables.items():
        if name[0] not in known or (len(name) > 1 and name[0] not in _TABLES):
            meant = probably_meant(name[0], known)
            say(f"Warning: {variable} is set, and {'.'.join(name)} is no option.{meant}", err=True)


class Setting(str):
    """The VALUE of `--set NAME=VALUE` as it was given: what it means depends on what takes it."""

    __slots__ = ()


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Return what `--set NAME=VALUE` sets, as a tree of `Setting`s."""
    tree: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        words = name.split(".")
        if not equals or not all(words):
            raise click.BadParameter(
                f"{setting!r} is no NAME=VALUE, like subscribers.nan_guard.every=10.", param_hint="--set"
            )
        branch = tree
        for word in words[:-1]:
            branch = branch.setdefault(word, {})
            if not isinstance(branch, dict):
                raise click.BadParameter(f"{name} is said to be two things.", param_hint="--set")
        branch[words[-1]] = Setting(text)
    return tree


def read_settings(tree: Any, *, as_text: bool = False) -> Any:
    """Return a tree with each `Setting` in it read as TOML where it is that, else (or with `as_text`) as text."""
    if isinstance(tree, Mapping):
        return {name: read_settings(one, as_text=as_text) for name, one in tree.items()}
    if not isinstance(tree, Setting):
        return tree
    if not as_text:
        with suppress(tomllib.TOMLDecodeError):
            return tomllib.loads(f"value = {tree}")["value"]
    return str(tree)


def as_meant(given: object, validate: Callable[[object], object]) -> object:
    """Validate what is read as TOML; where that does not do and it can be, as text: `name=3` names a thing 3."""
    try:
        return validate(read_settings(given))
    except ValidationError:
        with suppress(ValidationError):
            return validate(read_settings(given, as_text=True))
        raise


def schema_of_all() -> dict[str, Any]:
    """Return the JSON Schema of a configuration, with the options of each plugin that can be used."""
    schema = FitConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    for kind in KINDS:
        options: dict[str, Any] = {}
        for plugin in find_plugins(kind).values():
            try:
                one = plugin.options().model_json_schema()
            except ConfigError:
                continue  # `nntrain plugins` says what is wrong with it
            definitions |= one.pop("$defs", {})
            options[plugin.name] = one
        schema["properties"][kind] |= {"properties": options, "additionalProperties": False}
    return schema


def make_plugins(kind: Literal["subscribers", "sinks"], options: Options, places: Places | None = None) -> list[Any]:
    """Return the plugins of a kind that a configuration names, made in its order.

    Raises `ConfigError` with the place of one that is not there, or does not take its options.
    """
    return [get_plugin(kind, name, places).make(given, places) for name, given in options.items()]
