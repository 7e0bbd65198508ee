# SPDX-License-Identifier: Apache-2.0
"""Folders of frames in which any file may be anything: each frame is read, or one drop."""

from __future__ import annotations

import io
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from damage import damaged
from PIL import Image
from recordings import SIZE, write_folder

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.folder import open_recording

FRAMES = 4


def image(pixels: np.ndarray, kind: str, mode: str = "", **options) -> bytes:
    stream, made = io.BytesIO(), Image.fromarray(pixels)
    (made.convert(mode) if mode else made).save(stream, kind, **options)
    return stream.getvalue()


def turned(quarters: int) -> bytes:
    """A photograph whose tag says how it was held."""
    exif = Image.Exif()
    exif[0x0112] = {1: 6, 2: 3, 3: 8}[quarters]
    return image(np.zeros((*SIZE, 3), np.uint8), "JPEG", exif=exif)


def images() -> dict[str, bytes]:
    """Of every kind, by name; in the size of the others."""
    rgb, grey = np.full((*SIZE, 3), 90, np.uint8), np.full(SIZE, 90, np.uint8)
    metres, deep = np.full(SIZE, 1.5, np.float32), np.full(SIZE, 1500, np.uint16)
    modes = ("1", "L", "LA", "P", "RGB", "RGBA")
    numbers = io.BytesIO()
    np.save(numbers, deep)
    return {
        **{f"PNG {mode}": image(rgb, "PNG", mode) for mode in modes},
        **{f"JPEG {mode}": image(rgb, "JPEG", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")},
        **{f"turned {quarters}": turned(quarters) for quarters in (1, 2, 3)},
        "16 bit": image(deep, "PNG"),
        "nothing far": image(np.full(SIZE, 65535, np.uint16), "PNG"),
        "metres": image(metres, "TIFF"),
        "32 bit": image(deep.astype(np.int32), "TIFF"),
        "GIF": image(grey, "GIF"),
        "BMP": image(rgb, "BMP"),
        "wide": image(np.zeros((1, 9999), np.uint8), "PNG"),
        "one pixel": image(np.zeros((1, 1), np.uint16), "PNG"),
        "transposed": image(rgb.transpose(1, 0, 2).copy(), "PNG"),
        "numbers": numbers.getvalue(),
        "none": b"",
        "text": b"hello",
        "animated": image(grey, "PNG", save_all=True, append_images=[Image.fromarray(grey)] * 3),
    }


POSES = (
    *(b"", b"1", b"\xff\xfe1", b"nan " * 16, b"inf " * 16, b"0 " * 16, b"1e400 " * 16, b"1 " * 17),
    *(b"1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 2", b"2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", b"x " * 16),
    *(b"-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", b"1 0 0 1e300 0 1 0 0 0 0 1 0 0 0 0 1", b"9" * 99_999),
    b"1 0 0 0\r\n0 1 0 0\r\n0 0 1 0\r\n0 0 0 1\r\n",
)


def others(part: str, good: bytes, rng: random.Random) -> Iterator[bytes]:
    """What a file of a part may hold instead."""
    found = list(POSES if part == "pose" else images().values())
    return iter([*found, *damaged(good, 40, rng.randrange(99))])


def read(folder: Path) -> dict[str, int]:
    """The reasons, and how often each, of frames that cannot be read; the others are."""
    recording = open_recording(folder)
    frames, reasons = list(recording), dict(recording.drops.items())
    assert len(frames) + sum(reasons.values()) == len(recording)
    for frame in frames:
        assert frame.depth.shape == SIZE and np.isfinite(frame.depth).all()
        assert np.isfinite(frame.T_world_camera).all()
    for reason, example in recording.drops.examples.items():
        assert reason.isprintable() and example.isprintable() and len(example) <= 300
    return reasons


@pytest.mark.slow
@pytest.mark.parametrize("part", ["color", "depth", "pose"])
@pytest.mark.parametrize("place", [0, 2])
def test_a_file_that_is_something_else_costs_its_frame(tmp_path, part, place):
    folder, rng = write_folder(tmp_path / "a", list(range(FRAMES))), random.Random(place)
    file = sorted((folder / part).iterdir())[place]
    used = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in others(part, file.read_bytes(), rng):
            file.write_bytes(data)
            try:
                reasons = read(folder)
            except RecordingError as error:
                pytest.fail(f"one file costs the recording: {error}")
            assert sum(reasons.values()) <= 1, reasons
            used += not reasons
    assert used >= 2, "some of them are what they should be"


@pytest.mark.parametrize("part", ["color", "depth", "pose"])
def test_a_file_that_is_none_costs_its_frame(tmp_path, part):
    folder = write_folder(tmp_path / "a", list(range(FRAMES)))
    file = sorted((folder / part).iterdir())[1]
    file.unlink()
    for make in (
        lambda: os.mkfifo(file),
        lambda: file.mkdir(),
        lambda: file.symlink_to(file.name),
        lambda: file.symlink_to("/dev/zero"),
        lambda: file.symlink_to("nowhere"),
        lambda: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 1 << 40),  # holds nothing
    ):
        make()
        assert sum(read(folder).values()) == 1
        file.rmdir() if file.is_dir() else file.unlink()


def test_cameras_that_are_none(tmp_path):
    folder, refused = write_folder(tmp_path / "a", [0]), 0
    file = folder / "intrinsics.txt"
    whole = file.read_bytes()
    for data in (*POSES, *damaged(whole, 60), b"1 0 0 0 1 0 0 0 1", b"0 0 0 0 0 0 0 0 1"):
        file.write_bytes(data)
        try:
            read(folder)
        except RecordingError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 30
