"""A learner of one's own on the command line: `FILE.py:NAME` or `package.module:NAME`, and its parameters.

NAME is a learner, or a function that returns one. The function's parameters are set by `--set name=value`, `epochs` and
`steps` also by the options of these names, and pydantic checks them by their annotations. Python and the module's own
imports are as in `python FILE.py` and `python -m package.module`: the file's folder, or the working directory, is the
first place where modules are looked for.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from nntrain.cli.places import Places
from nntrain.cli.plugins import describe_errors, hints_of, options_of
from nntrain.cli.settings import Setting, as_meant
from nntrain.errors import ConfigError
from nntrain.values.calls import probably_meant

if TYPE_CHECKING:
    from datasets.dataset_dict import DatasetDict

    from nntrain.machine.learner import Learner

EXPECTED: Final = "FILE.py:NAME or package.module:NAME, where NAME is a learner or a function that returns one"
_PACKAGE: Final = str(Path(__file__).parents[1])
_IMPORTLIB: Final = str(Path(inspect.getfile(import_module)).parent)
PARAMETERS: Final = "parameters"
"""What the function's parameters are called in a configuration."""
DATA: Final = "data"
"""The function's parameter that `--data` is for."""


class Data(NamedTuple):
    """What `--data` says, and what reads it."""

    said: str
    read: Callable[[], DatasetDict]


@contextmanager
def learner_of(
    target: str,
    given: Mapping[str, Any],
    seed: int,
    places: Places | None = None,
    *,
    data: Data | None = None,
    goal: Mapping[str, int] | None = None,
) -> Iterator[Learner[Any, Any]]:
    """Import `target`, and call it with the parameters `given` if it is a function; give the learner to a block.

    What `data` says is the function's parameter of that name: read, where this is a `DatasetDict`, and else as it is.
    What a fit is to reach, its `goal`, is a parameter too where the function has one of that name: a schedule that ends
    with the fit needs it.

    Both are done under global generators seeded with `seed`, so that weights and splits of the data drawn there are
    those of the seed; what is printed goes to stderr, and of several ranks rank 0 prints. The module can be imported by
    its name within the block, also by the workers of a loader.

    Raises `ConfigError` for what is no target, cannot be imported, is not there, takes no such parameters, or is no
    learner; and with the lines of the module that led there, for what it raises.
    """
    where, name, file = parts_of(target)
    from nntrain.machine.learner import Learner
    from nntrain.ranks.console import silent_but_first
    from nntrain.values.randomness import transforming

    with _importable(file):
        with transforming(seed), silent_but_first(sys.stderr):
            found = _named(_module(where) if file is None else _module_of_file(file), name, where)
            if not isinstance(found, Learner):
                found = _called(found, target, given, places, data=data, goal=goal or {})
            elif given or data is not None:
                raise ConfigError(
                    f"{target} is a learner, and takes no parameters; got "
                    f"{', '.join([*given, *([] if data is None else ['--data'])])}. Let NAME be a function with these "
                    f"parameters that returns the learner."
                )
            if not isinstance(found, Learner):
                raise ConfigError(f"{target} returned a {type(found).__name__}; expected a Learner.")
        yield found


def parts_of(target: str) -> tuple[str, str, Path | None]:
    """Return the module, the name in it, and its file if it is given by that. Imports nothing.

    Raises `ConfigError` for what is no target, and for a file that is not there.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ConfigError(f"{target!r} is no learner to train; expected {EXPECTED}.{_learners_in(target)}")
    if not where.endswith(".py"):
        if not all(word.isidentifier() for word in where.split(".")):
            raise ConfigError(f"{where!r} is neither a file that ends with .py nor the name of a module: {EXPECTED}.")
        return where, name, None
    file = Path(where)
    if not file.is_file():
        raise ConfigError(f"{where} {'is no file' if file.exists() else 'does not exist'}; expected {EXPECTED}.")
    return where, name, file


def _learners_in(file: str) -> str:
    """Return the sentence with what may be trained of a file that is given without a name. It is read, but not run."""
    try:
        body = ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return ""
    made = [
        one.name
        for one in body
        if isinstance(one, ast.FunctionDef) and one.returns is not None and "Learner" in ast.unparse(one.returns)
    ]
    return f" Probably meant: {' or '.join(f'{file}:{name}' for name in made)}." if made else ""


@contextmanager
def _importable(file: Path | None) -> Iterator[None]:
    """Let a file, with what lies beside it, or the working directory's modules be imported within the block."""
    if file is not None and file.stem in sys.modules:
        raise ConfigError(
            f"{file} cannot be imported: a module {file.stem} is imported already, from "
            f"{getattr(sys.modules[file.stem], '__file__', None) or 'Python itself'}. Give the file another name."
        )
    place = str(Path.cwd() if file is None else file.resolve().parent)
    sys.path.insert(0, place)
    try:
        yield
    finally:
        if place in sys.path:
            sys.path.remove(place)
        if file is not None:
            sys.modules.pop(file.stem, None)


def _module(name: str) -> ModuleType:
    with _errors_told(f"The module {name}", "cannot be imported"):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name
            if missing is None or not f"{name}.".startswith(f"{missing}."):
                raise  # another module, which it imports
    raise ConfigError(
        f"There is no module {missing}, neither installed nor in the working directory. A file is given as "
        f"FILE.py:NAME."
    )


def _module_of_file(file: Path) -> ModuleType:
    """Import a file under the name that `import` would find it by."""
    spec = spec_from_file_location(file.stem, file.resolve())
    assert spec is not None  # its name ends with .py
    assert spec.loader is not None
    module = sys.modules[file.stem] = module_from_spec(spec)
    with _errors_told(str(file), "cannot be imported"):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _errors_told(what: str, failed: str) -> Iterator[None]:
    """Raise `ConfigError` for what a user's module raises: its type, its text, and the lines that led there."""
    try:
        yield
    except (Exception, SystemExit) as error:
        said = "".join(traceback.format_exception_only(error)).rstrip()
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
        lines = "".join(traceback.format_list(frames)).rstrip()
        raise ConfigError(f"{what} {failed}: {said}" + (f"\n{lines}" if lines else "")) from error


def _is_ours(filename: str) -> bool:
    """Return whether a line of a traceback is of nntrain or of the import, and tells nothing of the user's module."""
    return filename.startswith(("<", _PACKAGE, _IMPORTLIB))


def _named(module: ModuleType, name: str, where: str) -> object:
    """Return what a module has under a name. Raises `ConfigError` with the names that it may have meant."""
    from nntrain.machine.learner import Learner

    try:
        return getattr(module, name)
    except AttributeError:
        there = [
            one
            for one, value in vars(module).items()
            if isinstance(value, Learner) or (inspect.isfunction(value) and value.__module__ == module.__name__)
        ]
        has = f"Of learners and functions it has {', '.join(there)}." if there else "It has no learner and no function."
        raise ConfigError(f"{where} has no {name}.{probably_meant(name, there or vars(module))} {has}") from None


def _called(
    made_by: Any,
    target: str,
    given: Mapping[str, Any],
    places: Places | None,
    *,
    data: Data | None,
    goal: Mapping[str, int],
) -> object:
    """Return what a function makes of the parameters that are given, and of the goal where it has such."""
    from pydantic import ValidationError

    if not (inspect.isroutine(made_by) or isinstance(made_by, (type, functools.partial))):
        raise ConfigError(
            f"{target} is of type {type(made_by).__name__}; expected a Learner, or a function that returns one."
        )
    read = _read_data(made_by, target, data)
    if data is not None and not read:
        if DATA in given:
            raise ConfigError(f"{target}: its parameter data is set, and --data {data.said} is given; say it once.")
        given = {**given, DATA: Setting(data.said)}
    model = options_of(made_by, target, target, around=as_meant, without=read or ())
    fields = model.model_fields
    try:
        options = model.model_validate({name: goal[name] for name in fields if name in goal} | dict(given))
    except ValidationError as error:
        there = [f"{name}{'' if one.is_required() else f'={one.default!r:.40}'}" for name, one in fields.items()]
        raise ConfigError(
            f"{target} cannot be called with the parameters that are set:\n"
            f"{describe_errors(error, (PARAMETERS,), fields, places)}\n"
            f"It has {', '.join(there) or 'none'}; set one by --set NAME=VALUE."
        ) from error
    with _errors_told(target, "failed"):
        return made_by(**{name: getattr(options, name) for name in fields}, **read)


def _read_data(made_by: Any, target: str, data: Data | None) -> dict[str, Any]:
    """Return the parameter `data` where it is a `DatasetDict`; nothing where it is not. Raises `ConfigError`."""
    try:
        takes, hints = inspect.signature(made_by).parameters, hints_of(made_by)
    except Exception:  # noqa: BLE001 - what is wrong with the parameters is said where they are read
        return {}
    if DATA not in takes:
        if data is not None:
            raise ConfigError(
                f"{target} has no parameter data, which --data {data.said} is for: let it have one, data: DatasetDict, "
                f"or data: Path for the folder itself. It has {', '.join(takes) or 'none'}."
            )
        return {}
    if not any(_is_dataset_dict(one) for one in (hints.get(DATA), *get_args(hints.get(DATA)))):
        return {}
    if data is not None:
        return {DATA: data.read()}
    if takes[DATA].default is inspect.Parameter.empty:
        raise ConfigError(f"{target} needs data: give --data, a folder of images for instance.")
    return {DATA: takes[DATA].default}


def _is_dataset_dict(hint: object) -> bool:
    """Return whether a type is that of `datasets`, which is imported where it is."""
    return getattr(hint, "__name__", "") == "DatasetDict" and getattr(hint, "__module__", "").startswith("datasets.")
