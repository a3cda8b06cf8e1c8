"""Whether ranks are alike: named digests of what each has, compared on all of them, and what differs said by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from nntrain.errors import RankError
from nntrain.ranks.world import current_world

_MOST_NAMES: Final = 20
"""How many differences are said; the rest are counted."""
_LONGEST: Final = 80
_ABSENT: Final = "nothing"


def check_same(named_digests: Mapping[str, str]) -> None:
    """Raise `RankError` on all ranks where they do not have the same texts under the same names.

    It is a collective: all ranks call it at the same place, once. It says what differs and between which ranks, and its
    `rank` is the first that is unlike most others. A process by itself is always alike.
    """
    world = current_world()
    if world.single:
        return
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, dict(named_digests))
    error = disagreement(found)
    if error is not None:
        raise error


def disagreement(of_ranks: Sequence[Mapping[str, str]]) -> RankError | None:
    """Return the error for ranks that are not alike, None where they are: a function of what each has."""
    names = dict.fromkeys(name for one in of_ranks for name in one)
    differing = [name for name in names if len({one.get(name) for one in of_ranks}) > 1]
    if not differing:
        return None
    said = [f"{name}: {_who_has_what([one.get(name, _ABSENT) for one in of_ranks])}" for name in differing]
    if len(said) > _MOST_NAMES:
        said[_MOST_NAMES:] = [f"and {len(differing) - _MOST_NAMES} more"]
    odd = _groups([one.get(differing[0], _ABSENT) for one in of_ranks])[-1][1][0]
    return RankError(
        "The ranks are not alike, and would not train together as one:\n  " + "\n  ".join(said) + "\nGive all ranks "
        "the same code, settings and data, and begin from the same weights.",
        odd,
    )


def _groups(values: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the values, each with its ranks: first what most have, and of as many what the lowest rank has."""
    groups: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        groups.setdefault(value, []).append(rank)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[1][0]))


def _who_has_what(values: Sequence[str]) -> str:
    return "; ".join(
        f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} {'have' if len(ranks) > 1 else 'has'} "
        f"{value if len(value) <= _LONGEST else value[:_LONGEST] + '…'}"
        for value, ranks in _groups(values)
    )


def digest(value: object) -> str:
    """Return a short digest of a tree of tensors and plain values: equal where all bits, shapes and types are."""
    content = hashlib.sha256()
    _feed(content, value)
    return content.hexdigest()[:16]


def source_digest(folder: Path) -> str:
    """Return a digest of all Python source in a folder."""
    return digest([(str(file.relative_to(folder)), file.read_bytes()) for file in sorted(folder.rglob("*.py"))])


def _feed(content: hashlib._Hash, value: object) -> None:
    if isinstance(value, Tensor):
        full: Callable[[], Tensor] | None = getattr(value, "full_tensor", None)  # of a DTensor, on all ranks alike
        whole = value if full is None else full()
        content.update(f"{whole.dtype} {tuple(whole.shape)} ".encode())
        content.update(_bytes_of(whole))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _feed(content, key)
            _feed(content, item)
    elif isinstance(value, (list, tuple)):
        content.update(f"{len(value)} ".encode())
        for item in value:
            _feed(content, item)
    else:
        content.update(value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace"))


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
