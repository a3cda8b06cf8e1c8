"""Decoding a stored image to the intensities that the reference divides by 255.

torchvision's decoder takes half the time of PIL's and lets other threads run. It is used only for kinds of files for
which both are known to give the same bits: greyscale and RGB with 8 bits a channel, with or without alpha, as PNG or
JPEG, and nothing in the file that needs more (an orientation, a palette, a transparent colour). `datasets.Image`, which
uses PIL and is the reference, decodes everything else. Since builds of the JPEG library differ, the first images of
each kind are decoded by both; after one bit of difference, PIL decodes that kind.
"""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from nntrain.data.images.encoded import Encoded
from nntrain.data.images.reference import pixels_of
from nntrain.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from datasets.features.image import Image
    from numpy.typing import NDArray

COMPARED: Final = 16
"""How many images of each kind both decoders decode before torchvision's is used alone."""

MAX_PIXELS: Final = 1 << 26
"""Above so many pixels PIL may refuse an image as a decompression bomb: it decides."""

WORTH_AN_IMPORT: Final = 4 << 20
"""From so many bytes of files on, torchvision is worth its import, which takes a second or more."""

_PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_SIDE: Final = 1_000_000
"""libpng refuses images with longer sides."""
_PNG_MODES: Final = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
_JPEG_MODES: Final = {1: "L", 3: "RGB"}


class Kind(NamedTuple):
    """What decides how a file is decoded: the same code runs for all files of one kind."""

    codec: str
    mode: str
    """PIL's name of the decoded image's mode."""
    detail: bytes
    """Of a JPEG, the process and the components' sampling."""


Decode = Callable[[Tensor, int, bool], Tensor]


class Decoder:
    """Decodes the images of one column. Several threads may share it.

    `feature` is the column's, whose `mode` is kept; `stored` is how many bytes there are to decode: with few, PIL is
    done before torchvision is imported. A copy in another process compares the decoders anew.
    """

    def __init__(self, feature: Image, stored: int = WORTH_AN_IMPORT) -> None:
        self._feature = feature
        self._stored = stored
        self._codecs = codecs() if stored >= WORTH_AN_IMPORT or "torchvision" in sys.modules else {}
        self._agreed: dict[Kind, int] = {}
        """How many images of a kind the decoders agreed on; -1 after one that they did not."""
        self._comparison_lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Decoder], tuple[Image, int]]:
        return Decoder, (self._feature, self._stored)  # a lock and operators cannot be pickled

    def pixels(self, image: Encoded | None, row: int, column: str) -> NDArray[np.uint8]:
        """Decode one image: uint8 [C, H, W], not to be written to.

        Raises:
            DataError: it is missing, cannot be decoded, or has not 8 bits a channel; the error names row and column.
        """
        if image is None:
            return pixels_of(None, f"row {row}").transpose(2, 0, 1)
        try:
            image = image.read()
        except OSError as error:
            raise cannot_decode(row, column, error, image.path) from error
        kind = kind_of(image.content) if image.content is not None else None
        if kind is None or kind.codec not in self._codecs or self._feature.mode not in {None, kind.mode}:
            return self._decode_by_pil(image, row, column)
        if self._agreed.get(kind, 0) < COMPARED:
            return self._decode_by_both(image, kind, row, column)
        found = self._decode_by_torchvision(image, kind)
        return self._decode_by_pil(image, row, column) if found is None else found

    def _decode_by_both(self, image: Encoded, kind: Kind, row: int, column: str) -> NDArray[np.uint8]:
        import numpy as np

        expected = self._decode_by_pil(image, row, column)
        # One at a time: no thread may trust a kind while another finds that it differs.
        with self._comparison_lock:
            so_far = self._agreed.get(kind, 0)
            if 0 <= so_far < COMPARED:
                found = self._decode_by_torchvision(image, kind)
                alike = found is not None and np.array_equal(found, expected)
                self._agreed[kind] = so_far + 1 if alike else -1
        return expected

    def _decode_by_torchvision(self, image: Encoded, kind: Kind) -> NDArray[np.uint8] | None:
        """Decode it, or return None where torchvision refuses: PIL may read it, or raises the error."""
        if image.tensor is None:
            return None
        try:
            found = self._codecs[kind.codec](image.tensor, 0, False)
        except RuntimeError:
            return None
        return found.numpy() if found.dtype == torch.uint8 else None

    def _decode_by_pil(self, image: Encoded, row: int, column: str) -> NDArray[np.uint8]:
        stored = {"bytes": None if image.content is None else bytes(image.content), "path": image.path}
        try:
            opened = self._feature.decode_example(stored)
            return pixels_of(opened, f"row {row}").transpose(2, 0, 1)
        except DataError:
            raise
        except Exception as error:  # each of PIL's plugins raises what it likes
            raise cannot_decode(row, column, error, image.path) from error


def codecs() -> dict[str, Decode]:
    """Return torchvision's decoders by the names of `Kind.codec`; without those that this build does not have.

    They are the operators that `torchvision.io.decode_png` and `decode_jpeg` call. These two warn at each image, since
    0.29, that they will move to another package.
    """
    import torchvision.io  # type: ignore[import-untyped]  # noqa: F401  # it has no py.typed; it registers the operators

    names = {"png": "decode_png", "jpeg": "decode_jpeg"}
    return {codec: getattr(torch.ops.image, name) for codec, name in names.items() if hasattr(torch.ops.image, name)}


def kind_of(content: memoryview) -> Kind | None:
    """Return the kind of an encoded image, from its headers; None where only PIL may decode it."""
    try:
        if bytes(content[:16]) == _PNG:
            return _png_kind(content)
        if bytes(content[:2]) == b"\xff\xd8" and bytes(content[-2:]) == b"\xff\xd9":
            return _jpeg_kind(content)
    except (struct.error, IndexError):  # it ends within a header
        return None
    return None


def _png_kind(content: memoryview) -> Kind | None:
    """Check that a PNG has a plain header, nothing but pixels, and all of them.

    Everything that libpng could fail on is checked first: in torchvision 0.29 an error of libpng ends the process.
    """
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    if depth != 8 or colour not in _PNG_MODES or compression or filtering or interlaced:
        return None
    mode = _PNG_MODES[colour]
    if not (0 < width < _PNG_SIDE and 0 < height < _PNG_SIDE and width * height <= MAX_PIXELS):
        return None
    pixels: list[memoryview] = []
    place = 8
    while True:
        length, name = struct.unpack_from(">I4s", content, place)
        (checksum,) = struct.unpack_from(">I", content, place + 8 + length)
        if zlib.crc32(content[place + 4 : place + 8 + length]) != checksum:
            return None
        if name == b"IDAT":
            pixels.append(content[place + 8 : place + 8 + length])
        elif name == b"IEND" and length == 0:
            break
        elif name != b"IHDR" or place != 8:
            return None
        place += 12 + length
    return Kind("png", mode, b"") if _is_complete(b"".join(pixels), height, 1 + width * len(mode)) else None


def _is_complete(compressed: bytes, lines: int, width: int) -> bool:
    """Return whether it decompresses to `lines` of `width` bytes, each beginning with the number of a filter."""
    inflating = zlib.decompressobj()
    try:
        found = inflating.decompress(compressed, lines * width + 1)
    except zlib.error:
        return False
    if len(found) != lines * width or not inflating.eof or inflating.unused_data:
        return False
    return max(found[::width]) <= 4


def _jpeg_kind(content: memoryview) -> Kind | None:
    """Check a JPEG's segments up to the first scan: only tables, comments, JFIF's header and one frame."""
    place = 2
    frame: memoryview | None = None
    while True:
        start, marker, length = struct.unpack_from(">BBH", content, place)
        if start != 0xFF:
            return None
        segment = content[place + 4 : place + 2 + length]
        match marker:
            case 0xE0 | 0xDB | 0xC4 | 0xDD | 0xFE:
                pass
            case 0xC0 | 0xC1 if frame is None:  # Huffman coding: baseline, extended
                frame = content[place + 1 : place + 2 + length]
            case 0xDA:
                break
            case _:  # Exif, XMP, colour transforms; progressive ones, which libraries read differently when damaged
                return None
        place += 2 + length
        if not segment:
            return None
    if frame is None:
        return None
    marker, _, depth, height, width, components = struct.unpack_from(">BHBHHB", frame)
    if depth != 8 or components not in _JPEG_MODES or not 0 < width * height <= MAX_PIXELS:
        return None
    return Kind("jpeg", _JPEG_MODES[components], bytes([marker]) + bytes(frame[9:]))


def cannot_decode(row: int, column: str, error: Exception, path: str | None = None) -> DataError:
    """Return the error that names the row of an image which cannot be decoded, what was raised, and its file if any."""
    file = "" if path is None or path in str(error) else f" (its file: {path})"
    said = f"{type(error).__name__}: {error}{file}"
    return DataError(f"the image of row {row}, column {column!r}, cannot be decoded: {said}")
