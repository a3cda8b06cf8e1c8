"""No file but a whole one is loaded: thousands of damaged and forged ones, each rejected by a typed error.

What chance does to a file (cut off, a bit flipped, pages of zeros, parts in each other's place) is always noticed, and
by `verify` too. What malice does can have the right digests: then the file is rejected too, or is a checkpoint like
any other, of a state that is checked like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import resource
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nntrain import DataLoaders, Learner, TrainState
from nntrain.checkpoint import diff, inspect, latest, load, resume, save, verify
from nntrain.checkpoint.container import MAX_HEADER
from nntrain.errors import CheckpointError, MisfitError
from tests.checkpoint.forging import changed, forged, forged_text, parts_of, with_header
from tests.checkpoint.test_save_load import VERSION_1, check_version_1, halfway, version_1_learner
from tests.laws.strategies import Setup
from tests.log.warm import Warm

WHOLE: Final = VERSION_1.read_bytes()
PARTS: Final = parts_of(WHOLE)
HEADER_END: Final = 8 + struct.unpack("<Q", WHOLE[:8])[0]
LEARNER: Final = version_1_learner()


def larger_learner() -> Learner[Any]:
    """A learner whose checkpoint has some pages."""
    batches = [(torch.ones(2, 64), torch.tensor([0, 1]))] * 3
    return Setup(optimizer="adamw").learner().replace(model=torch.nn.Linear(64, 64), dls=DataLoaders(batches, batches))


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of some pages."""
    path = tmp_path_factory.mktemp("larger") / "a.safetensors"
    return save(halfway(larger_learner()), path).path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a damaged file is."""
    return tmp_path / "damaged.safetensors"


def rejected(path: Path, content: bytes, *, what: object, learner: Learner[Any] = LEARNER) -> CheckpointError:
    """Check that a file is rejected by a typed error, whoever reads it, and give what `load` said."""
    path.write_bytes(content)
    verified, loaded = outcome_of(partial(verify, path)), outcome_of(partial(load, path, learner))
    assert isinstance(loaded, CheckpointError), f"{what}: {loaded!r:.200}"
    assert str(loaded) == str(verified), what
    assert loaded.path == str(path)
    assert loaded.problem in {"damaged", "foreign", "version"}, what
    assert loaded.reason
    return loaded


def outcome_of(read: Callable[[], object]) -> object:
    """Give what a reader gives, or the typed error that it raises."""
    try:
        return read()
    except (CheckpointError, MisfitError) as error:
        return error


def test_the_whole_file_is_loaded_and_forging_it_is_exact(path: Path) -> None:
    """Else all that follows would prove nothing."""
    path.write_bytes(WHOLE)
    check_version_1(load(path, version_1_learner()))
    assert forged(PARTS.record, PARTS.data) == WHOLE


# -- what chance does -----------------------------------------------------------------------------------------------


def test_a_file_cut_off_at_any_length_is_rejected(path: Path) -> None:
    for length in range(len(WHOLE)):
        error = rejected(path, WHOLE[:length], what=length)
        if length >= 8:
            assert error.problem == "damaged", (length, str(error))


@pytest.mark.sweep
def test_a_bit_flipped_anywhere_is_noticed(path: Path) -> None:
    for position in range(len(WHOLE)):
        content = bytearray(WHOLE)
        content[position] ^= 1 << position % 8
        rejected(path, bytes(content), what=position)


@pytest.mark.parametrize("bit", [0, 7, *(pytest.param(bit, marks=pytest.mark.sweep) for bit in range(1, 7))])
def test_every_bit_of_the_first_bytes_and_of_the_tensors_is_held(path: Path, bit: int) -> None:
    for position in (*range(120), *range(HEADER_END - 40, len(WHOLE))):
        content = bytearray(WHOLE)
        content[position] ^= 1 << bit
        rejected(path, bytes(content), what=(position, bit))


@pytest.mark.sweep
@pytest.mark.parametrize("size", [64, 512, 4096])
@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"{"], ids=["zeros", "ones", "text"])
def test_pages_that_were_lost_are_noticed(path: Path, larger: bytes, size: int, filling: bytes) -> None:
    learner = larger_learner()
    count = 0
    for position in range(0, len(larger), size * (1 if size > 64 else 5)):
        content = larger[:position] + filling * min(size, len(larger) - position) + larger[position + size :]
        if content != larger:
            rejected(path, content, what=position, learner=learner)
            count += 1
    assert count >= 10


def test_pages_in_each_other_s_place_are_noticed(path: Path, larger: bytes) -> None:
    learner = larger_learner()
    pages = [larger[position : position + 512] for position in range(0, len(larger), 512)]
    for number in range(len(pages) - 2):
        swapped = [*pages[:number], pages[number + 1], pages[number], *pages[number + 2 :]]
        if swapped != pages:
            rejected(path, b"".join(swapped), what=number, learner=learner)


def test_tensors_in_each_other_s_place_are_noticed(path: Path) -> None:
    offsets = {name: slice(*entry["data_offsets"]) for name, entry in PARTS.entries.items()}
    count = 0
    for one, where in offsets.items():
        for other, there in offsets.items():
            data = bytearray(PARTS.data)
            data[where], data[there] = PARTS.data[there], PARTS.data[where]
            if len(PARTS.data[where]) != len(PARTS.data[there]) or data == PARTS.data:
                continue
            said = str(rejected(path, WHOLE[:HEADER_END] + bytes(data), what=(one, other)))
            assert re.search(rf"the tensor ({re.escape(one)}|{re.escape(other)}) is not the one", said)
            # And with their entries in the header, by which others find them.
            entries = {**PARTS.entries, one: PARTS.entries[other], other: PARTS.entries[one]}
            header = json.dumps({"__metadata__": PARTS.metadata, **entries}, separators=(",", ":"))
            rejected(path, with_header(header, bytes(data)), what=(one, other))
            count += 1
    assert count > 40


@pytest.mark.parametrize("more", [b"\0", b" ", WHOLE, bytes(4096)], ids=["a zero", "a space", "itself", "a page"])
def test_what_is_too_long_or_doubled_is_noticed(path: Path, more: bytes) -> None:
    for content in (WHOLE + more, more + WHOLE, WHOLE[:HEADER_END] + more + WHOLE[HEADER_END:], WHOLE[:8] + more):
        if content != WHOLE:
            rejected(path, content, what=more[:8])


def test_other_ways_to_write_the_same_header_are_no_checkpoints(path: Path) -> None:
    """There is one way only, so that no bit is left unaccounted for."""
    header = {"__metadata__": PARTS.metadata, **PARTS.entries}
    texts = [
        json.dumps(header),
        json.dumps(header, separators=(",", ":")) + " " * 64,
        json.dumps({**PARTS.entries, "__metadata__": PARTS.metadata}, separators=(",", ":")),
        json.dumps({"__metadata__": {**PARTS.metadata, "more": ""}, **PARTS.entries}, separators=(",", ":")),
        json.dumps(header, separators=(",", ":"))[:-1] + ',"params/0.bias":' + json.dumps({}) + "}",
        json.dumps(dict(reversed(header.items())), separators=(",", ":")),
    ]
    for text in texts:
        rejected(path, with_header(text, PARTS.data), what=text[:80])


# -- what is none ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length",
    [
        0,
        1,
        7,
        HEADER_END,
        len(WHOLE),
        MAX_HEADER,
        MAX_HEADER + 1,
        1 << 40,
        (1 << 63) - 1,
        1 << 63,
        (1 << 64) - 1,
    ],
)
def test_absurd_lengths_of_the_header_are_rejected(path: Path, length: int) -> None:
    for rest in (WHOLE[8:], b"", b"{}", b"\0" * 100):
        rejected(path, struct.pack("<Q", length) + rest, what=(length, rest[:8]))


def sparse(path: Path) -> None:
    """Make a file that is as long as it says, and takes no room."""
    path.write_bytes(struct.pack("<Q", 1 << 39) + WHOLE[8:100])
    os.truncate(path, 1 << 40)


def foreign() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Give files of others."""
    tensors = {"params/0.weight": torch.ones(3, 2)}
    yield "safetensors", lambda path: save_file(tensors, path)
    yield "with metadata", lambda path: save_file(tensors, path, metadata={"format": "pt"})
    yield "with our format", lambda path: save_file(tensors, path, metadata={"format": "nntrain.checkpoint/1"})
    yield (
        "with our metadata",
        lambda path: save_file(tensors, path, metadata={**PARTS.metadata}),
    )
    yield "torch", lambda path: torch.save(tensors, path)
    yield "pickle", lambda path: path.write_bytes(pickle.dumps(tensors))
    yield "text", lambda path: path.write_text("Hello.\n" * 1000)
    yield "JSON", lambda path: path.write_text(json.dumps(PARTS.record))
    yield "zeros", lambda path: path.write_bytes(bytes(10_000))
    yield "sparse", lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40)
    yield "sparse, with a long header", sparse
    yield "noise", lambda path: path.write_bytes(torch.randint(0, 256, (9999,), dtype=torch.uint8).numpy().tobytes())


@pytest.mark.parametrize(("what", "make"), list(foreign()), ids=[what for what, _ in foreign()])
def test_files_of_others_are_rejected_at_once(path: Path, what: str, make: Callable[[Path], object]) -> None:
    make(path)
    began = time.perf_counter()
    for read in (verify, inspect, partial(load, learner=LEARNER), partial(diff, path)):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert caught.value.problem in {"foreign", "damaged"}
    assert time.perf_counter() - began < 5
    assert latest(path.parent).path is None
    found = resume(path.parent, version_1_learner())
    assert found.state is None
    assert [one.path for one in found.skipped] == [path]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "none")
    (tmp_path / "circle.safetensors").symlink_to(tmp_path / "circle.safetensors")
    for name in ("pipe.safetensors", "folder.safetensors", "dangling.safetensors", "circle.safetensors", "a\0b"):
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / name, LEARNER)
        assert caught.value.problem == "unreadable"
    found = latest(tmp_path)
    assert found.path is None
    assert len(found.skipped) == 4
    with pytest.raises(CheckpointError, match="it is a pipe, a socket or a device"):
        inspect("/dev/zero")


# -- what malice does -----------------------------------------------------------------------------------------------

REPLACEMENTS: Final[list[Any]] = [None, True, -1, 1 << 70, 1.5, "", "x", [], [1], {}, {"tensor": "params/0.bias"}]


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give where each value of a record stands."""
    yield path
    if isinstance(tree, (dict, list)):
        for name, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(part, (*path, name))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Put a value in a place of a record."""
    if not path:
        return value
    *most, last = path
    for name in most:
        tree = tree[name]
    tree[last] = value
    return None


@pytest.mark.sweep
def test_a_record_that_says_anything_else_is_rejected_or_is_one(path: Path, tmp_path: Path) -> None:
    """Every value of it replaced by values of every kind, with the right digest."""
    outcomes = {"rejected": 0, "misfit": 0, "loaded": 0}
    for place in places(PARTS.record):
        for value in REPLACEMENTS:
            record = changed(PARTS.record, partial(replaced, path=place, value=value))
            if record == PARTS.record:
                continue
            path.write_bytes(forged(record, PARTS.data))
            found = outcome_of(partial(load, path, LEARNER))
            if isinstance(found, CheckpointError):
                assert found.problem == "damaged", (place, value)
                outcomes["rejected"] += 1
            elif isinstance(found, MisfitError):
                outcomes["misfit"] += 1
            else:
                assert isinstance(found, TrainState)
                save(found, tmp_path / "again")
                assert load(tmp_path / "again", LEARNER) == found, (place, value)
                outcomes["loaded"] += 1
    assert sum(outcomes.values()) > 2000
    assert outcomes["rejected"] > 1000
    assert outcomes["loaded"] < outcomes["rejected"]


def without(record: Any, place: tuple[Any, ...]) -> None:
    """Take a part out of a record."""
    *most, last = place
    for name in most:
        record = record[name]
    del record[last]


def test_a_record_without_a_part_is_rejected_or_is_one(path: Path) -> None:
    count = 0
    for place in places(PARTS.record):
        if not place:
            continue
        path.write_bytes(forged(changed(PARTS.record, partial(without, place=place)), PARTS.data))
        try:
            load(path, LEARNER)
        except (CheckpointError, MisfitError):
            count += 1
    assert count > 150


def zeros(count: int) -> str:
    """Digest so many bytes of zeros."""
    return hashlib.sha256(bytes(count)).hexdigest()


def tensor(**said: Any) -> dict[str, Any]:
    """Say something of a tensor."""
    return {"dtype": "F32", "shape": [1], "digest": zeros(4), "device": "cpu", **said}


TENSORS: Final[dict[str, Any]] = {
    "too large": tensor(shape=[1 << 40]),
    "too large by far": tensor(shape=[1 << 47, 1 << 47]),
    "negative": tensor(shape=[-1]),
    "twice negative": tensor(shape=[-1, -1]),
    "none, of a large kind": tensor(shape=[0, 1 << 47, 1 << 47]),
    "no whole number": tensor(shape=[1.0]),
    "no shape": tensor(shape="1"),
    "many dimensions": tensor(shape=[1] * 100_000),
    "strides that overlap": tensor(shape=[2, 2], strides=[0, 1], digest=zeros(16)),
    "strides with gaps": tensor(shape=[2], strides=[1 << 20], digest=zeros(8)),
    "strides that are negative": tensor(shape=[2], strides=[-1], digest=zeros(8)),
    "too few strides": tensor(shape=[2, 2], strides=[1], digest=zeros(16)),
    "no dtype": tensor(dtype="F33"),
    "another kind": tensor(kind="float32"),
    "a kind of another size": tensor(dtype="U8", shape=[2, 8], kind="complex128", digest=zeros(16)),
    "no kind": tensor(kind="nn"),
    "a kind that is code": tensor(kind="load"),
    "a short digest": tensor(digest="00"),
    "another digest": tensor(digest="0" * 64),
    "a device that is none": tensor(device=1),
    "more": tensor(more=1),
}


@pytest.mark.parametrize("said", TENSORS.values(), ids=TENSORS)
def test_absurd_tensors_are_rejected(path: Path, said: Any) -> None:
    record = changed(PARTS.record, partial(with_note, said=said))
    size = {"[2, 2]": 16, "[2, 8]": 16, "[2]": 8}.get(str(said["shape"]), 4)
    error = rejected(path, forged(record, PARTS.data + bytes(size)), what=str(said)[:200])
    assert "no part of its state" not in str(error)


def with_note(record: Any, said: Any) -> None:
    """Add a tensor to a record, as a part of its state."""
    record["tensors"]["zzz"] = said
    record["state"]["state"]["slots"]["map"]["tests.damaged"] = {"record": {"zzz": {"tensor": "zzz"}}}


def test_a_tensor_that_is_added_with_all_that_belongs_to_it_is_one(path: Path) -> None:
    """Else those above would be rejected for something else."""
    for said in (tensor(), tensor(shape=[2, 2], strides=[1, 2], digest=zeros(16))):
        record = changed(PARTS.record, partial(with_note, said=said))
        path.write_bytes(forged(record, PARTS.data + bytes(4 if said["shape"] == [1] else 16)))
        assert "tests.damaged" in load(path, LEARNER).slots


def test_a_tensor_that_nothing_refers_to_is_rejected(path: Path) -> None:
    """It is no part of a state: who put it there?"""
    record = changed(PARTS.record, lambda record: record["tensors"].update({"zzz": tensor()}))
    error = rejected(path, forged(record, PARTS.data + bytes(4)), what="extra")
    assert "zzz" in str(error)


def test_a_tensor_that_is_not_there_is_rejected(path: Path) -> None:
    for name in PARTS.record["tensors"]:
        record = changed(PARTS.record, partial(without, place=("tensors", name)))
        entry = slice(*PARTS.entries[name]["data_offsets"])
        data = PARTS.data[: entry.start] + PARTS.data[entry.stop :]
        path.write_bytes(forged(record, data))
        with pytest.raises(CheckpointError, match="its record is none of a state"):
            load(path, LEARNER)
        with pytest.raises(CheckpointError):
            verify(path)


TRICKS: Final = (
    *("../../etc/passwd", "/etc/passwd", "..", ".", "", "a\0b", "C:\\x", "\x1b]0;pwned\x07", "\u202egnp", "\ud800"),
    *(
        "__class__",
        "__dict__",
        "constructor",
        "%s%n",
        "${HOME}",
        "{0.__class__}",
        "x" * 100_000,
        "\n\nError: all is well",
    ),
)


@pytest.mark.parametrize("name", TRICKS, ids=lambda name: ascii(name[:20]))
def test_names_are_only_names(path: Path, name: str) -> None:
    """One that no model has is told of as what it is, and nothing in it is obeyed: not by a path, nor a terminal."""

    def renamed(record: Any) -> None:
        record["tensors"] = {
            f"params/{name}" if one == "params/0.bias" else one: said for one, said in record["tensors"].items()
        }
        ((_, params),) = record["state"]["state"]["params"].items()
        params[name] = {"tensor": f"params/{name}"}
        del params["0.bias"]

    before = sorted(path.parent.iterdir())
    record = changed(PARTS.record, renamed)
    old = PARTS.entries["params/0.bias"]["data_offsets"]
    bias = PARTS.data[slice(*old)]
    names = sorted(record["tensors"])
    data = b"".join(
        bias if one == f"params/{name}" else PARTS.data[slice(*PARTS.entries[one]["data_offsets"])] for one in names
    )
    path.write_bytes(forged(record, data))
    with pytest.raises((MisfitError, CheckpointError)) as caught:
        load(path, LEARNER)
    said = str(caught.value)
    assert "0.bias" in said
    assert len(said) < 10_000
    assert all(one.isprintable() for one in said.replace("\n  ", "").replace("\nNothing was loaded", ""))
    assert sorted(path.parent.iterdir()) == [*before, path]


def test_what_a_file_says_of_a_class_is_not_looked_up(path: Path) -> None:
    """Slots come back as what the slots of this process keep, optimizers as the learner's."""
    for kind in ("os.system", "builtins.eval", "torch.optim.adam.Adam\x1b[0m", "__import__('os')"):
        record = changed(PARTS.record, partial(replaced, path=("state", "state", "kind"), value=kind))
        path.write_bytes(forged(record, PARTS.data))
        with pytest.raises(MisfitError, match="the optimizer is"):
            load(path, LEARNER)


def bombs() -> Iterator[tuple[str, str]]:
    """Give records that are small, or at most as long as is read, and mean to be much."""
    rest = json.dumps(PARTS.record)[1:]
    yield "deep lists", "[" * 1_000_000 + "]" * 1_000_000
    yield "deep lists, not ended", "[" * 5_000_000
    yield "deep objects", '{"a":' * 1_000_000 + "1" + "}" * 1_000_000
    yield "a deep state", json.dumps(PARTS.record).replace('"slots":', '"slots":' + '{"map":{"a":' * 90_000)
    yield "a long number", '{"n":' + "9" * 5_000_000 + "," + rest
    yield "a large number", '{"n":1e999999999,' + rest
    yield "not a number", '{"n":NaN,' + rest
    yield "a long string", '{"n":"' + "a" * 5_000_000 + '",' + rest[:100]
    yield "many keys", "{" + ",".join(f'"{number:x}":0' for number in range(300_000)) + "}"
    yield "one key many times", "{" + '"tensors":{},' * 300_000 + rest
    yield "no JSON", "}" * 100_000
    yield "nothing", ""


HARMLESS: Final = {"not a number", "a large number", "one key many times"}
"""A state like any other, and something beside it that nobody looks at."""


def reject_all(folder: str, limit: int) -> None:
    """Read each bomb with so much memory above what there is, and little time."""
    learner = version_1_learner()
    load(VERSION_1, learner)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + limit
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    path = Path(folder, "bomb.safetensors")
    for what, text in bombs():
        path.write_bytes(forged_text(text, PARTS.record["tensors"], PARTS.data))
        began = time.perf_counter()
        for read in (inspect, verify, partial(load, learner=learner)):
            found = outcome_of(partial(read, path))
            assert isinstance(found, CheckpointError) or what in HARMLESS, (what, found)
            assert len(str(found)) < 5000 or what in HARMLESS, what
        taken = time.perf_counter() - began
        assert taken < 20, (what, taken)
    path.write_bytes(WHOLE)
    check_version_1(load(path, learner))


@pytest.mark.sweep
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as on Linux")
def test_bombs_neither_take_memory_nor_time(tmp_path: Path, warm: Warm) -> None:
    child = warm.start(reject_all, tmp_path / "child", str(tmp_path), 512 << 20)
    assert child.wait() == 0, child.stderr.read_text()[-3000:]


def test_a_slot_s_record_is_held_to_what_the_slot_keeps(path: Path) -> None:
    def spoilt(record: Any) -> None:
        slots = record["state"]["state"]["slots"]["map"]
        slots["tests.version_1"]["record"]["seen"] = "seven"

    path.write_bytes(forged(changed(PARTS.record, spoilt), PARTS.data))
    with pytest.raises(MisfitError, match=r"slot tests\.version_1 is no Kept: seen: Input should be a valid integer"):
        load(path, LEARNER)


def test_nothing_is_left_in_memory_of_what_was_rejected(path: Path) -> None:
    """The learner goes on from what it had."""
    learner = version_1_learner()
    before = load(VERSION_1, learner)
    for content in (WHOLE[:-1], WHOLE[:HEADER_END] + bytes(len(PARTS.data))):
        rejected(path, content, what="damaged", learner=learner)
    tensors: dict[str, Tensor] = dict(before.params)
    check_version_1(before)
    assert all(torch.equal(tensors[name], one) for name, one in load(VERSION_1, learner).params.items())
