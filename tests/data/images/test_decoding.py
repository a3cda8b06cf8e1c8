"""Whichever decoder is used, the bits are the reference's, and so is what is refused."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.combine import concatenate_datasets
from datasets.dataset_dict import DatasetDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from nntrain.data import DataLoaders, HFLoader, ResidentLoader, hf_ds_collate_fn
from nntrain.data.images import decoding
from nntrain.data.images.decoding import COMPARED, Decoder, kind_of
from nntrain.data.images.encoded import Encoded, encoded_images
from nntrain.data.images.reference import pixels_of
from nntrain.errors import DataError
from nntrain.values.key import Key
from tests.data.generated import chunk, image_files, interlaced, oriented, with_chunk, written
from tests.data.images.pictures import MODES, picture, png, stored

Pair = tuple[Tensor, Tensor]


def by_reference(data: Dataset, rows: list[int], batch_size: int, *, flatten: bool) -> list[Pair]:
    """What a torch DataLoader gives of these rows, in this order."""
    return list(
        DataLoader(
            cast("MapDataset[object]", data),
            batch_size=batch_size,
            sampler=rows,
            collate_fn=functools.partial(hf_ds_collate_fn, flatten=flatten),
        )
    )


def check_same(ours: list[Pair], theirs: list[Pair]) -> None:
    assert len(ours) == len(theirs)
    for (images, labels), (their_images, their_labels) in zip(ours, theirs, strict=True):
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert torch.equal(images, their_images)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, their_labels)


@pytest.mark.sweep
@given(data=st.data(), mode=st.sampled_from([*MODES, "CMYK"]), shuffle=st.booleans(), flatten=st.booleans())
def test_law_both_ways_have_the_bits_of_the_reference(
    data: st.DataObject, mode: str, shuffle: bool, flatten: bool
) -> None:
    size = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    contents = data.draw(st.lists(image_files(mode, size), min_size=1, max_size=6))
    contents *= data.draw(st.sampled_from([1, 1, 1, 20]))  # past those that both decoders see
    split = stored(contents, [row % 3 for row in range(len(contents))])
    batch_size = data.draw(st.integers(1, len(contents) + 1))
    dd = DatasetDict({"train": split, "test": split})
    dls = DataLoaders.from_hf_dd(dd, batch_size, shuffle=shuffle, flatten=flatten)
    streamed = HFLoader(split, batch_size, "image", "label", shuffle=shuffle, flatten=flatten)
    key, epoch = Key(seed=data.draw(st.integers(0, 2**62))), data.draw(st.integers(0, 3))
    rows = streamed.order(key, epoch).tolist()
    try:
        theirs = by_reference(split, rows, batch_size, flatten=flatten)
    except DataError:  # an orientation turned one of them
        assert isinstance(dls.train, HFLoader)
        for loader in (dls.train, streamed):
            with pytest.raises(DataError, match="different shapes"):
                list(loader.batches(key, epoch, 0))
        return
    assert isinstance(dls.train, HFLoader | ResidentLoader)
    check_same(list(dls.train.batches(key, epoch, 0)), theirs)
    check_same(list(streamed.batches(key, epoch, 0)), theirs)


def pixels_by_pil(content: bytes) -> NDArray[np.uint8] | None:
    try:
        opened = datasets.Image().decode_example({"bytes": content, "path": None})
        return pixels_of(opened, "row 0").transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError):
        return None


def encoded(content: bytes) -> Encoded:
    (found,) = encoded_images(stored([content], [0]).with_format("arrow")[:]["image"])
    assert found is not None
    return found


def believing(content: bytes) -> Decoder:
    """A decoder for which torchvision has already proved itself on files of this kind."""
    decoder = Decoder(datasets.Image())
    for _ in range(COMPARED):
        decoder.pixels(encoded(content), 0, "image")
    return decoder


WHOLE = [
    png(picture("L", 1, (9, 7))),
    png(picture("RGBA", 1, (9, 7))),
    written(picture("RGB", 1, (17, 19)), "JPEG"),
    written(picture("L", 1, (17, 19)), "JPEG", progressive=True),
    written(picture("RGB", 1, (17, 19)), "JPEG", progressive=True, subsampling="4:2:2"),
]


drawn_files = given(content=st.sampled_from(WHOLE), data=st.data())


def a_damaged_file_gives_what_pil_gives_or_is_refused_as_pil_refuses(content: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["cut", "byte", "added", "lost"])):
        case "cut":
            damaged = content[:place]
        case "byte":
            damaged = content[:place] + bytes([data.draw(st.integers(0, 255))]) + content[place + 1 :]
        case "added":
            damaged = content[:place] + data.draw(st.binary(min_size=1, max_size=4)) + content[place:]
        case _:
            damaged = content[:place] + content[place + 1 :]
    expected = pixels_by_pil(damaged)
    decoder = believing(content)
    if expected is None:
        with pytest.raises(DataError, match="row 0"):
            decoder.pixels(encoded(damaged), 0, "image")
    else:
        assert np.array_equal(decoder.pixels(encoded(damaged), 0, "image"), expected)


test_law_a_damaged_file_gives_what_pil_gives_or_is_refused_as_pil_refuses = settings(max_examples=50)(
    drawn_files(a_damaged_file_gives_what_pil_gives_or_is_refused_as_pil_refuses)
)
test_law_150_damaged_files_give_what_pil_gives_or_are_refused_as_pil_refuses = pytest.mark.sweep(
    settings(max_examples=150)(drawn_files(a_damaged_file_gives_what_pil_gives_or_is_refused_as_pil_refuses))
)


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (png(picture("L", 0)), "L"),
        (png(picture("RGB", 0)), "RGB"),
        (png(picture("RGBA", 0)), "RGBA"),
        (png(picture("LA", 0)), "LA"),
        (written(picture("L", 0), "JPEG"), "L"),
        (written(picture("RGB", 0), "JPEG", comment="x"), "RGB"),
        (written(picture("RGB", 0), "JPEG", progressive=True), None),
        (png(picture("P", 0)), None),
        (png(picture("1", 0)), None),
        (written(picture("L", 0), "PNG", transparency=3), None),
        (written(picture("RGB", 0), "PNG", exif=oriented(6)), None),
        (with_chunk(png(picture("L", 0)), chunk(b"tEXt", b"exif\0Exif\0\0")), None),
        (interlaced(np.zeros((5, 5), np.uint8)), None),
        (written(Image.new("I;16", (3, 3)), "PNG"), None),
        (written(picture("CMYK", 0), "JPEG"), None),
        (written(picture("RGB", 0), "JPEG", exif=oriented(6)), None),
        (written(picture("RGB", 0), "JPEG", icc_profile=b"x" * 9), None),
        (written(picture("RGB", 0), "JPEG")[:-1], None),
        (png(picture("L", 0))[:-1], None),
        (png(picture("L", 0))[:20], None),
        (written(picture("RGB", 0), "BMP"), None),
        (b"\xff\xd8\xff\xd9", None),
        (b"", None),
    ],
)
def test_only_files_known_to_decode_alike_are_torchvisions(content: bytes, mode: str | None) -> None:
    kind = kind_of(memoryview(content))
    assert (kind.mode if kind else None) == mode


SCANLINES = b"".join(b"\0" + bytes(range(9)) for _ in range(7))


def handmade(pixels: bytes, between: bytes = b"", size: tuple[int, int] = (9, 7)) -> bytes:
    """A greyscale PNG of these bytes, with correct checksums."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        handmade(b"\1\2\3" * 5),
        handmade(b""),
        handmade(zlib.compress(SCANLINES)[:-9]),
        handmade(zlib.compress(SCANLINES)[:-1] + b"x"),
        handmade(zlib.compress(SCANLINES[:-1])),
        handmade(zlib.compress(SCANLINES + b"\0")),
        handmade(zlib.compress(b"\x09" + SCANLINES[1:])),
        handmade(zlib.compress(SCANLINES) + b"more"),
        handmade(zlib.compress(SCANLINES), between=chunk(b"IHDR", bytes(13))),
        handmade(zlib.compress(b""), size=(0, 7)),
        handmade(zlib.compress(bytes(1_000_001)), size=(1_000_000, 1)),
    ],
)
def test_what_libpng_would_stumble_over_never_reaches_it(content: bytes) -> None:
    # torchvision 0.29 crashes there, with a segmentation fault and no exception.
    assert kind_of(memoryview(handmade(zlib.compress(SCANLINES)))) is not None
    assert kind_of(memoryview(content)) is None


def test_a_mode_that_is_not_the_files_is_never_torchvisions() -> None:
    decoder = Decoder(datasets.Image(mode="HSV"))
    black = png(Image.new("RGB", (5, 4)))  # which is black in HSV too
    for row in range(COMPARED + 1):
        decoder.pixels(encoded(black), row, "image")
    wanted = np.asarray(picture("RGB", 1).convert("HSV")).transpose(2, 0, 1)
    assert np.array_equal(decoder.pixels(encoded(png(picture("RGB", 1))), 0, "image"), wanted)


def test_files_that_one_library_may_decode_unlike_another_are_of_several_kinds() -> None:
    image = picture("RGB", 0, (16, 16))
    contents = [written(image, "JPEG", subsampling=sampling) for sampling in ("4:4:4", "4:2:2", "4:2:0")]
    assert len({kind_of(memoryview(content)) for content in contents}) == 3


class Counting:
    """torchvision's decoder of PNG, or another in its place, and how often it was asked."""

    def __init__(self, wrong_at: int | None = None) -> None:
        self.calls = 0
        self.wrong_at = wrong_at

    def __call__(self, content: Tensor, mode: int, orient: bool) -> Tensor:
        self.calls += 1
        found: Tensor = torch.ops.image.decode_png(content, mode, orient)
        return 255 - found if self.calls == self.wrong_at else found


@pytest.mark.parametrize(
    ("wrong_at", "asked"), [(None, 2 * COMPARED), (1, 1), (COMPARED, COMPARED)], ids=["never", "first", "last"]
)
def test_a_decoder_that_differs_in_one_bit_is_not_used(
    monkeypatch: pytest.MonkeyPatch, wrong_at: int | None, asked: int
) -> None:
    used = Counting(wrong_at)
    monkeypatch.setattr(decoding, "codecs", lambda: {"png": used})
    decoder = Decoder(datasets.Image())
    for row in range(2 * COMPARED):
        content = png(picture("L", row))
        assert np.array_equal(decoder.pixels(encoded(content), row, "image")[0], np.asarray(picture("L", row)))
    assert used.calls == asked


@pytest.mark.parametrize("answer", ["error", "sixteen bits"])
def test_what_torchvision_cannot_do_later_is_pils(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    def failing(content: Tensor, mode: int, orient: bool) -> Tensor:
        if answer == "error":
            raise RuntimeError("out of luck")
        return torch.zeros(1, 4, 5, dtype=torch.uint16)

    monkeypatch.setattr(decoding, "codecs", lambda: {"png": Counting()})
    content = png(picture("L", 0))
    decoder = believing(content)
    decoder._codecs["png"] = failing
    assert np.array_equal(decoder.pixels(encoded(content), 0, "image")[0], np.asarray(picture("L", 0)))


def test_without_torchvisions_decoders_pil_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "image", object())
    assert decoding.codecs() == {}
    decoder = Decoder(datasets.Image())
    assert np.array_equal(decoder.pixels(encoded(WHOLE[0]), 0, "image")[0], np.asarray(picture("L", 1, (9, 7))))


def test_torchvision_is_used_and_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    assert set(decoding.codecs()) == {"png", "jpeg"}
    for content in WHOLE:
        if kind_of(memoryview(content)) is None:  # progressive
            continue
        decoder = believing(content)
        (agreed,) = decoder._agreed.values()
        assert agreed == COMPARED, "the JPEG libraries of this machine differ"
        decoder.pixels(encoded(content), 0, "image")
    assert [str(one.message) for one in recwarn if "image" in str(one.message).lower()] == []


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_features_mode_is_obeyed(mode: str) -> None:
    feature = datasets.Image(mode=mode)
    decoder = pickle.loads(pickle.dumps(Decoder(feature)))
    for row in range(COMPARED + 2):
        content = png(picture("RGB", row))
        wanted = pixels_of(Image.open(io.BytesIO(content)).convert(mode), "row")
        assert np.array_equal(decoder.pixels(encoded(content), row, "image"), wanted.transpose(2, 0, 1))


def of_paths(paths: list[Path | None], **options: Any) -> Dataset:
    label = datasets.ClassLabel(names=["0", "1"])
    features = datasets.Features(image=datasets.Image(**options), label=label)  # type: ignore[no-untyped-call]  # datasets leaves it untyped
    columns = {"image": [None if path is None else str(path) for path in paths], "label": [0] * len(paths)}
    return Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("budget", [None, 0])
def test_images_that_are_paths_are_read_from_their_files(tmp_path: Path, budget: int | None) -> None:
    paths: list[Path | None] = []
    for row in range(COMPARED + 3):
        paths.append(tmp_path / f"{row}.png")
        (tmp_path / f"{row}.png").write_bytes(png(picture("RGB", row)))
    data = of_paths(paths)
    dd = DatasetDict({"train": data, "test": data})
    dls = DataLoaders.from_hf_dd(dd, 8, memory_budget=budget, num_workers=0)
    check_same(list(dls.valid), by_reference(data, list(range(len(paths))), 8, flatten=True))
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match=r"image of row 3, column 'image', cannot be decoded: .*3\.png"):
        list(DataLoaders.from_hf_dd(dd, 8, memory_budget=budget, num_workers=0).valid)


@pytest.mark.parametrize("budget", [None, 0])
def test_a_missing_image_and_one_of_sixteen_bits_are_named_by_their_row(tmp_path: Path, budget: int | None) -> None:
    (tmp_path / "0.png").write_bytes(png(picture("L", 0)))
    missing = of_paths([tmp_path / "0.png", None])
    with pytest.raises(DataError, match="the image of row 1 is a NoneType"):
        list(DataLoaders.from_hf_dd(DatasetDict({"train": missing, "test": missing}), memory_budget=budget).valid)
    deep = stored([png(picture("L", 0, (3, 3))), written(Image.new("I;16", (3, 3)), "PNG")], [0, 0])
    with pytest.raises(DataError, match="the image of row 1 has mode 'I;16'"):
        list(DataLoaders.from_hf_dd(DatasetDict({"train": deep, "test": deep}), memory_budget=budget).valid)


@given(data=st.data(), start=st.integers(0, 12), stop=st.integers(0, 12))
@example(data=None, start=3, stop=3)
def test_encoded_images_are_those_of_the_column_whatever_its_chunks(
    data: st.DataObject | None, start: int, stop: int
) -> None:
    contents = [b"" if row % 5 == 4 else bytes([row]) * (row + 1) for row in range(12)]
    whole = concatenate_datasets([stored(contents[:5], [0] * 5), stored(contents[5:], [0] * 7)])
    order = list(range(start, stop)) if data is None else data.draw(st.lists(st.integers(0, 11)))
    for rows, view in ((range(start, stop), whole.with_format("arrow")[start:stop]), (order, whole.select(order))):
        table = view if not isinstance(view, Dataset) else view.with_format("arrow")[:]
        found = list(encoded_images(table["image"]))
        assert [bytes(one.content or b"") if one else None for one in found] == [contents[row] for row in rows]
        for one in found:
            assert one is not None
            assert one.tensor is None or bytes(one.tensor.tolist()) == bytes(one.content or b"")


@pytest.mark.sweep
def test_a_few_small_images_are_not_worth_an_import() -> None:
    """In a process of its own: here torchvision is imported already."""
    program = (
        "import sys\n"
        "from nntrain.data import DataLoaders, load_digits\n"
        "DataLoaders.from_hf_dd(load_digits())\n"
        "print('torchvision' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
