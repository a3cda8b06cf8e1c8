"""Decoding an image as it is stored to the intensities that the reference divides by 255.

torchvision's decoder takes half the time of PIL's and lets other threads run. It is used only for kinds of files of
which it is known that both give the same bits: greyscale and RGB with 8 bits a channel, with alpha or without it, as
PNG or JPEG, and nothing in the file that could ask for more (an orientation, a palette, a transparent colour). All
else is decoded by `datasets.Image`, which is PIL: the reference itself. And since builds of the JPEG library differ,
the first images of each kind are decoded by both; one bit of difference, and the kind is PIL's.
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
"""So many images of each kind are decoded by both decoders before torchvision's is believed."""

LARGEST: Final = 1 << 26
"""So many pixels, and PIL begins to suspect a decompression bomb: its answer counts."""

WORTH_AN_IMPORT: Final = 4 << 20
"""Bytes of files from which on importing torchvision, which takes a second or more, is won back."""

_PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_SIDE: Final = 1_000_000
"""libpng refuses longer sides."""
_PNG_MODES: Final = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
_JPEG_MODES: Final = {1: "L", 3: "RGB"}


class Kind(NamedTuple):
    """What two files share that are decoded alike."""

    codec: str
    mode: str
    """As PIL calls what it makes of it."""
    detail: bytes
    """What else decides which code of the library runs: of a JPEG the process and the components' sampling."""


Decode = Callable[[Tensor, int, bool], Tensor]


class Decoder:
    """Decodes the images of one column, from many threads if need be.

    `feature` is the column's, whose `mode` is obeyed; `stored` is how many bytes there are to decode: for a few, PIL is
    done before torchvision is imported. A copy in another process compares anew.
    """

    def __init__(self, feature: Image, stored: int = WORTH_AN_IMPORT) -> None:
        self._feature = feature
        self._stored = stored
        self._codecs = codecs() if stored >= WORTH_AN_IMPORT or "torchvision" in sys.modules else {}
        self._agreed: dict[Kind, int] = {}
        """How many images of a kind came out alike; -1 where one did not."""
        self._comparing = threading.Lock()

    def __reduce__(self) -> tuple[type[Decoder], tuple[Image, int]]:
        return Decoder, (self._feature, self._stored)  # a lock and operators cannot be pickled

    def pixels(self, image: Encoded | None, row: int, column: str) -> NDArray[np.uint8]:
        """Decode one image: uint8 [C, H, W], not to be written to.

        Raises:
            DataError: it is missing, cannot be decoded, or has no 8 bits a channel; the error names row and column.
        """
        if image is None:
            return pixels_of(None, f"row {row}").transpose(2, 0, 1)
        try:
            image = image.read()
        except OSError as error:
            raise _undecodable(row, column, error) from error
        kind = kind_of(image.content) if image.content is not None else None
        if kind is None or kind.codec not in self._codecs or self._feature.mode not in {None, kind.mode}:
            return self._by_pil(image, row, column)
        if self._agreed.get(kind, 0) < COMPARED:
            return self._compared(image, kind, row, column)
        found = self._by_torchvision(image, kind)
        return self._by_pil(image, row, column) if found is None else found

    def _compared(self, image: Encoded, kind: Kind, row: int, column: str) -> NDArray[np.uint8]:
        import numpy as np

        expected = self._by_pil(image, row, column)
        # One at a time: nobody may believe a kind while another thread is finding that it differs.
        with self._comparing:
            so_far = self._agreed.get(kind, 0)
            if 0 <= so_far < COMPARED:
                found = self._by_torchvision(image, kind)
                alike = found is not None and np.array_equal(found, expected)
                self._agreed[kind] = so_far + 1 if alike else -1
        return expected

    def _by_torchvision(self, image: Encoded, kind: Kind) -> NDArray[np.uint8] | None:
        """Decode it, or give None: what torchvision refuses, PIL may read, and otherwise says why not."""
        if image.tensor is None:
            return None
        try:
            found = self._codecs[kind.codec](image.tensor, 0, False)
        except RuntimeError:
            return None
        return found.numpy() if found.dtype == torch.uint8 else None

    def _by_pil(self, image: Encoded, row: int, column: str) -> NDArray[np.uint8]:
        from PIL import Image

        stored = {"bytes": None if image.content is None else bytes(image.content), "path": image.path}
        try:
            opened = self._feature.decode_example(stored)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL raises
            raise _undecodable(row, column, error) from error
        return pixels_of(opened, f"row {row}").transpose(2, 0, 1)


def codecs() -> dict[str, Decode]:
    """Give torchvision's decoders by the names of `Kind.codec`; none where it was built without, or has them no more.

    They are the operators under `torchvision.io.decode_png` and `decode_jpeg`, which warn, since 0.29 at each image,
    that they will move to another package.
    """
    import torchvision.io  # type: ignore[import-untyped]  # noqa: F401  # it has no py.typed; it registers the operators

    names = {"png": "decode_png", "jpeg": "decode_jpeg"}
    return {codec: getattr(torch.ops.image, name) for codec, name in names.items() if hasattr(torch.ops.image, name)}


def kind_of(content: memoryview) -> Kind | None:
    """Tell the kind of an encoded image, from its headers; None where only PIL is to decode it."""
    try:
        if bytes(content[:16]) == _PNG:
            return _png(content)
        if bytes(content[:2]) == b"\xff\xd8" and bytes(content[-2:]) == b"\xff\xd9":
            return _jpeg(content)
    except (struct.error, IndexError):  # it ends in a header
        return None
    return None


def _png(content: memoryview) -> Kind | None:
    """Look at a PNG's header, that there is nothing in it but pixels, and that these are whole.

    All that libpng could stumble over is looked at before: torchvision's 0.29 does not survive libpng's errors, but
    takes the process down with it.
    """
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    if depth != 8 or colour not in _PNG_MODES or compression or filtering or interlaced:
        return None
    mode = _PNG_MODES[colour]
    if not (0 < width < _PNG_SIDE and 0 < height < _PNG_SIDE and width * height <= LARGEST):
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
    return Kind("png", mode, b"") if _whole(b"".join(pixels), height, 1 + width * len(mode)) else None


def _whole(compressed: bytes, lines: int, width: int) -> bool:
    """Look whether so many lines of so many bytes come out, each of them beginning with the number of a filter."""
    inflating = zlib.decompressobj()
    try:
        found = inflating.decompress(compressed, lines * width + 1)
    except zlib.error:
        return False
    if len(found) != lines * width or not inflating.eof or inflating.unused_data:
        return False
    return max(found[::width]) <= 4


def _jpeg(content: memoryview) -> Kind | None:
    """Look at a JPEG's segments up to the first scan: tables, comments, JFIF's header and one frame."""
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
            case (
                _
            ):  # Exif, XMP and colour transforms; progressive ones, of which libraries differ when they are damaged
                return None
        place += 2 + length
        if not segment:
            return None
    if frame is None:
        return None
    marker, _, depth, height, width, components = struct.unpack_from(">BHBHHB", frame)
    if depth != 8 or components not in _JPEG_MODES or not 0 < width * height <= LARGEST:
        return None
    return Kind("jpeg", _JPEG_MODES[components], bytes([marker]) + bytes(frame[9:]))


def _undecodable(row: int, column: str, error: Exception) -> DataError:
    return DataError(f"the image of row {row}, column {column!r}, cannot be decoded: {error}")
