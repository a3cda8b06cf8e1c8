"""Images as files of every kind that can be made here, for property tests."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.data.images.pictures import picture

ORIENTATION = 0x0112


def written(image: Image.Image, codec: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, codec, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunk(png: bytes, added: bytes) -> bytes:
    """A PNG with one more chunk, after its header."""
    return png[:33] + added + png[33:]


def interlaced(pixels: NDArray[np.uint8]) -> bytes:
    """A greyscale PNG, 8 bits, in the seven passes of Adam7, which PIL reads and does not write."""
    height, width = pixels.shape
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [
        b"\0" + line.tobytes()
        for top, left, down, across in passes
        for line in pixels[top::down, left::across]
        if line.size
    ]
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    data = zlib.compress(b"".join(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


@st.composite
def png_options(draw: st.DrawFn, mode: str) -> dict[str, Any]:
    options: dict[str, Any] = {"compress_level": draw(st.integers(0, 9))}
    if draw(st.integers(0, 4)) == 0:
        options["exif"] = oriented(draw(st.integers(1, 8)))
    if draw(st.integers(0, 4)) == 0 and mode in {"L", "RGB", "P", "1"}:
        options["transparency"] = (1, 2, 3) if mode == "RGB" else draw(st.integers(0, 1))
    if mode == "P":
        options["bits"] = draw(st.sampled_from([4, 8]))
    if draw(st.integers(0, 5)) == 0:
        options["dpi"] = (72, 72)
    return options


@st.composite
def jpeg_options(draw: st.DrawFn, mode: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "quality": draw(st.integers(1, 100)),
        "progressive": draw(st.booleans()),
        "optimize": draw(st.booleans()),
        "restart_marker_rows": draw(st.integers(0, 2)),
    }
    if mode == "RGB":
        options["subsampling"] = draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]))
        options["keep_rgb"] = draw(st.integers(0, 4)) == 0
        if options["keep_rgb"]:
            options["subsampling"] = "4:4:4"
    if draw(st.integers(0, 4)) == 0:
        options["exif"] = oriented(draw(st.integers(1, 8)))
    if draw(st.integers(0, 4)) == 0:
        options["comment"] = "made by hand"
    return options


@st.composite
def image_files(draw: st.DrawFn, mode: str, size: tuple[int, int]) -> bytes:
    """One file with an image of this mode and size (width, height), where its format has the mode."""
    image = picture(mode, draw(st.integers(0, 2**31)), size)
    codecs = ["PNG", "TIFF"]
    if mode in {"L", "RGB", "CMYK"}:
        codecs += ["JPEG", "JPEG"]
    if mode in {"L", "RGB", "P", "1"}:
        codecs += ["BMP"]
    if mode == "CMYK":
        codecs.remove("PNG")
    codec = draw(st.sampled_from(codecs))
    if codec == "PNG" and mode == "L" and draw(st.integers(0, 5)) == 0:
        return interlaced(np.asarray(image))
    options: dict[str, Any] = {}
    if codec == "PNG":
        options = draw(png_options(mode))
    if codec == "JPEG":
        options = draw(jpeg_options(mode))
    return written(image, codec, **options)
