"""From a state to the record of a checkpoint, and back.

The record is JSON: when it was saved, by which versions, a description of each tensor, and the state as a tree (see
`nntrain.values.flattening`). A slot's record is made by the slot that this process has under that name, or is `Unread`
where it has none yet: no class is looked up by a name from the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NamedTuple

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from nntrain.checkpoint.container import VERSION, Stored
from nntrain.errors import CheckpointError, ConfigError, StateError
from nntrain.values.bits import same_bits
from nntrain.values.flattening import Flattener, Tree, unflattened
from nntrain.values.history import EpochStats, History
from nntrain.values.key import Key
from nntrain.values.memory import Memory, as_made
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping
from nntrain.values.slots import Unread, slot_record
from nntrain.values.state import TrainState
from nntrain.values.sums import Sums, WeightedSums
from nntrain.values.tensors import ANOTHER, ModelSource, OptimState, Snapshot, Spec, Tensors, sparse_of, spec_of

SAVED_AT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
"""RFC 3339, UTC, microseconds: a later time is also the greater text."""


def flattener_for(state: TrainState, snapshot: Snapshot) -> Flattener:
    """Return a flattener that takes the tensors of `state` from a snapshot of them."""
    flattener = Flattener()
    flattener.know(state.tensors, snapshot)
    return flattener


class Flattened(NamedTuple):
    """A flattened state: the tree, and its tensors by name."""

    tree: Tree
    tensors: Mapping[str, Tensor]


def flatten_state(state: TrainState, flattener: Flattener) -> Flattened:
    """Flatten a state, and check that it can be restored.

    Raises `CheckpointError` where it cannot: a slot's record, or the optimizer's memory, has what JSON cannot hold, or
    would come back different.
    """
    try:
        tree = flattener.tree(state, "")
    except ConfigError as error:
        raise CheckpointError("the state", "unsavable", str(error).removesuffix(".")) from error
    makers = _constructors(state.tensors.spec, state.tensors.template, [], {})
    snapshot: Snapshot = flattener.known(state.tensors)
    _check_memory(tree["state"], flattener.tensors, snapshot.optim)
    slots: Mapping[str, Mapping[str, object]] = unflattened(tree["state"]["slots"], flattener.tensors, makers)
    for name, record in state.slots.items():
        misfits: list[str] = []
        kept = slot_record(name)
        if kept is None or not isinstance(record, kept):  # the slot was defined again since, as in a notebook
            kept = type(record)
        back = _restore_slot(name, kept, slots[name], misfits)
        if misfits or not same_bits(back, record):
            raise CheckpointError(
                "the state",
                "unsavable",
                f"slot {name} holds {record!r:.200}, which would come back as {back!r:.200}. Keep records whose fields "
                f"are all that they are (private attributes are not saved), of the very types that the fields have",
            )
    return Flattened(tree, flattener.tensors)


def _check_memory(parts: Mapping[str, Tree], tensors: Mapping[str, Tensor], optim: OptimState) -> None:
    """Raise `CheckpointError` for what an optimizer keeps that would come back different."""
    state, groups, attributes, rules = (
        unflattened(parts.get(part, {"map": {}}), tensors, {"sparse": sparse_of})
        for part in ("optim", "groups", "attributes", "rules")
    )
    kept = {f"parameter {param}": (memory, state[param]) for param, memory in optim.state.items()}
    kept |= {f"group {index}": (group, groups[index]) for index, group in enumerate(optim.groups)}
    kept["its attributes"] = optim.attributes, attributes
    kept |= {f"the rule {name}": (memory, rules[name]) for name, memory in optim.rules.items()}
    for where, (memory, back) in kept.items():
        for name, value in memory.items():
            if not same_bits(value, back[name]):
                raise CheckpointError(
                    "the state",
                    "unsavable",
                    f"the optimizer keeps {name} of {where}, {value!r:.200} ({type(value).__name__}), which would come "
                    f"back as {back[name]!r:.200} ({type(back[name]).__name__}). Keep tensors, numbers, strings, and "
                    f"lists, tuples, dicts, sets and deques of these",
                )


def record_text(
    saved_at: datetime, run: Mapping[str, object] | None, tree: Tree
) -> Callable[[Mapping[str, Stored]], str]:
    """Return the function that makes the record's text of the tensors' descriptions."""
    return text_of(
        {
            "saved_at": saved_at.astimezone(UTC).strftime(SAVED_AT),
            "versions": {"nntrain": _nntrain_version(), "torch": torch.__version__},
            "run": run,
            "state": tree,
        }
    )


def text_of(record: Mapping[str, object]) -> Callable[[Mapping[str, Stored]], str]:
    """Return the function that makes a record's text of the tensors' descriptions, in the place of those it has."""
    beginning = {name: one for name, one in record.items() if name not in {"tensors", "state"}}
    state = json.dumps(record["state"], separators=(",", ":"))
    head = json.dumps(beginning, separators=(",", ":"), default=str)

    def text(stored: Mapping[str, Stored]) -> str:
        said = json.dumps({name: one.as_json() for name, one in stored.items()}, separators=(",", ":"))
        return f'{head[:-1]},"tensors":{said},"state":{state}}}'

    return text


def _nntrain_version() -> str:
    try:
        return version("nntrain")
    except PackageNotFoundError:
        return "unknown"


MIGRATIONS: Final[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""By version, a function of the parsed JSON that turns a record into one of the next version."""


def migrate(record: dict[str, Any], version: int) -> dict[str, Any]:
    """Return the record as one of the current version."""
    for older in range(version, VERSION):
        record = MIGRATIONS[older](record)
    return record


_SUMS: Final = {"totals": "weighted"}
"""The fields of `Sums` that have another name in a file."""

# -- back to a state ----------------------------------------------------------------------------------------------


def state_of(
    tree: Tree,
    tensors: Mapping[str, Tensor],
    spec: Spec,
    template: ModelSource,
    misfits: list[str],
    *,
    empty: Mapping[str, Memory],
) -> TrainState:
    """Return the state of a tree; adds a line to `misfits` for each slot whose fields its record does not accept.

    `empty` is what each metric remembers of no batch: what it remembers in the state gets its classes.

    Raises `ValueError`, `TypeError` or `KeyError` for what is not the tree of a state.
    """
    state = unflattened(tree, tensors, _constructors(spec, template, misfits, empty))
    if not isinstance(state, TrainState):
        raise ValueError("it has no state")  # noqa: TRY004 - a file is wrong, not an argument
    return state


def _constructors(
    spec: Spec, template: ModelSource, misfits: list[str], empty: Mapping[str, Memory]
) -> dict[str, Callable[[Any], object]]:
    """Return the constructors, by tag, of the values that flatten themselves; metrics' memory as those in `empty`."""

    def totals(parts: Mapping[str, Any]) -> WeightedSums:
        values, metrics = parts["values"], parts["metrics"]
        plain = isinstance(values, list) and all(isinstance(one, float) for one in values)
        on_device = isinstance(values, Tensor) and values.dtype == torch.float64 and values.ndim == 1
        has_names = isinstance(metrics, tuple) and all(isinstance(one, str) for one in metrics)
        if not ((plain or on_device) and has_names and len(values) in {0, 1 + len(metrics), 2 + len(metrics)}):
            raise ValueError(f"its running sums are {values!r:.80}, of the metrics {metrics!r:.80}")
        return WeightedSums(
            values,
            metrics,
            memory_of(parts.get("memory", {})),
            has_loss=parts.get("has_loss", True),
            carried=named(parts.get("carried", {}), "what its batches carry"),
        )

    def memory_of(found: object) -> dict[str, Memory]:
        return {name: as_made(empty.get(name), tree) for name, tree in named(found, "its metrics' memory").items()}

    def named(found: object, what: str) -> dict[str, Memory]:
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise ValueError(f"{what} is {found!r:.80}")
        return found

    def tensors_of(parts: Mapping[str, Any]) -> Tensors:
        snapshot = _snapshot(parts)
        own = spec_of(snapshot.params, snapshot.buffers, spec.device)
        if parts.get("model") == ANOTHER or spec.misfits(own):  # a state of another learner's, in a slot
            return Tensors(own, _unknown_model, None, snapshot)
        return Tensors(spec, template, None, snapshot)

    def state(parts: Mapping[str, Any]) -> TrainState:
        return TrainState(
            progress=Progress.model_validate(parts["progress"]),
            tensors=tensors_of(parts),
            sums=_sums_of(parts["sums"]),
            history=History(map(EpochStats.model_validate, parts["history"])),
            key=Key.model_validate(parts["key"]),
            lr_scale=parts["lr_scale"],
            slots=FrozenMapping(
                {
                    name: _restore_slot(name, slot_record(name) or Unread, slot, misfits)
                    for name, slot in parts["slots"].items()
                }
            ),
        )

    return {"totals": totals, "state": state, "sparse": sparse_of}


def _sums_of(parts: Mapping[str, Any]) -> Sums:
    """Return a phase's sums, with those of the other ranks that trained together."""
    fields = {_SUMS.get(name, name): part for name, part in parts.items()}
    return Sums.model_validate({**fields, "others": tuple(map(_sums_of, parts.get("others", ())))})


def _unknown_model() -> nn.Module:
    raise StateError(
        "The state was kept in a slot, and is of another model than the learner that it was loaded for: the file has "
        "its tensors, and no code. Make its module yourself: module.load_state_dict({**state.params, **state.buffers})."
    )


def _snapshot(parts: Mapping[str, Any]) -> Snapshot:
    """Return the tensors of a state. pydantic does not check them, so this does. Raises `ValueError`."""
    params, buffers, state = parts["params"], parts["buffers"], parts["optim"]
    groups, options, attributes = parts["groups"], parts["options"], parts.get("attributes", {})
    rules = parts.get("rules", {})
    if not isinstance(attributes, dict):
        raise ValueError("its attributes are not named values")  # noqa: TRY004 - a file is wrong, not an argument
    named = (("params", params, Tensor), ("buffers", buffers, Tensor), ("optim", state, dict), ("rules", rules, dict))
    for what, given, kind in named:
        if not (isinstance(given, dict) and all(isinstance(one, kind) for one in given.values())):
            raise ValueError(f"its {what} are not named {'tensors' if kind is Tensor else 'mappings'}")
    for what, given in (("groups", groups), ("options", options)):
        if not (isinstance(given, tuple) and all(isinstance(one, dict) for one in given)):
            raise ValueError(f"its {what} are no mappings")
    if not isinstance(parts["kind"], str):
        raise ValueError("its optimizer has no name")  # noqa: TRY004 - a file is wrong, not an argument
    unknown = [name for name in state if name not in params]
    if unknown:
        raise ValueError(f"its optimizer has states of what is no parameter: {', '.join(unknown)}")
    return Snapshot(params, buffers, OptimState(parts["kind"], state, groups, options, attributes, rules))


def _restore_slot(name: str, kept: type[BaseModel], fields: Mapping[str, object], misfits: list[str]) -> BaseModel:
    """Return the record of a slot, of type `kept`."""
    if not isinstance(fields, dict):
        raise ValueError(f"slot {name} has no fields")  # noqa: TRY004 - a file is wrong, not an argument
    if kept is not Unread:
        try:
            return kept.model_validate(fields, by_name=True)
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            misfits.append(f"slot {name} is no {kept.__name__}: {said}")
    return Unread(fields=FrozenMapping(fields))
