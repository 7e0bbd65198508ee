# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all, and images are what their content says."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radseg_ros import files
from radseg_ros.datatypes import InputError
from radseg_ros.files import prepare_file, prepare_folder, whole_file, write_whole


def picture(kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(content, kind)
    return content.getvalue()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out.bin"
    files.write_whole(target, b"old")
    with pytest.raises(RuntimeError), files.whole_file(target) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]
    assert target.read_bytes() == b"old"
    files.write_whole(target, "n\u00e9w")
    assert target.read_text(encoding="utf-8") == "n\u00e9w"


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path):
    target = tmp_path / "out.bin"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    left = tmp_path / f".out.bin.{int(dead.stdout)}-0.part.bin"
    other = tmp_path / f".other.bin.{int(dead.stdout)}-0.part.bin"
    for path in (left, other):
        path.write_bytes(b"half")
    with files.whole_file(target) as mine, files.whole_file(target) as also_mine:
        mine.write_bytes(b"first")
        also_mine.write_bytes(b"second")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out.bin"]
    assert target.read_bytes() == b"first"


def test_missing_folders_are_made_for_contents(tmp_path):
    files.write_whole(tmp_path / "a" / "b" / "c.txt", "text")
    with pytest.raises(FileNotFoundError), files.whole_file(tmp_path / "no" / "c.txt"):
        pass


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"x" * 99])
def test_images_that_cannot_be_read_are_named(tmp_path, damage):
    path = tmp_path / "image.png"
    path.write_bytes(damage(picture()))
    with pytest.raises(InputError, match="image.png: depth image cannot be read"):
        files.open_image(path, "depth image")
    with pytest.raises(InputError, match="^depth image cannot be read"):
        files.open_image(path.read_bytes(), "depth image")
    with pytest.raises(InputError, match="none.png.*no such file"):
        files.open_image(tmp_path / "none.png")


def test_the_content_and_not_the_name_tells_what_an_image_is(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(picture("BMP"))
    assert files.open_image(path).size == (6, 4)
    with pytest.raises(InputError, match="not PNG or JPEG"):
        files.open_image(path, formats=("PNG", "JPEG"))
    monkeypatch.setattr(files, "MAX_PIXELS", 24)
    assert files.open_image(path).size == (6, 4)
    monkeypatch.setattr(files, "MAX_PIXELS", 23)
    with pytest.raises(InputError, match="has more than 0 million pixels"):
        files.open_image(path)


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    content = io.BytesIO()
    Image.new("1", (7000, 7000)).save(content, "PNG")
    for limit in (Image.MAX_IMAGE_PIXELS, 1000):  # ours, and Pillow's own
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match="^image has more than 36 million pixels$"):
            files.open_image(content.getvalue())


def test_places_for_results_are_tried_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    prepare_folder(tmp_path / "new" / "folder")
    prepare_file(tmp_path / "other" / "x.json")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    assert list((tmp_path / "other").iterdir()) == []
    for place, reason in (
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "file" / "x" / "y", "lies below a file"),
        (Path("/proc/x"), "no file can be written"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("nul\0byte"), "no such name"),
    ):
        with pytest.raises(InputError, match=reason):
            prepare_folder(place)
        with pytest.raises(InputError, match=reason):
            prepare_file(place / "x.json")
    with pytest.raises(InputError, match="is a folder: name a file"):
        prepare_file(tmp_path)


def test_what_utf_8_cannot_say_is_escaped(tmp_path):
    write_whole(tmp_path / "a.md", "t\u00fcr \udcff")
    assert (tmp_path / "a.md").read_bytes() == b"t\xc3\xbcr \\udcff"


def test_what_cannot_be_written_is_named(tmp_path):
    """An error of writing has no name, and one of opening that of a file that nobody knows."""
    resource = pytest.importorskip("resource", reason="limits of a process are those of Unix")
    path = tmp_path / "a.txt"
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, unlimited[1]))
    try:
        with pytest.raises(OSError) as full:
            write_whole(path, b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as nowhere, whole_file(tmp_path / "file" / "a.txt") as part:
        part.write_bytes(b"x")
    with pytest.raises(OSError) as other, whole_file(path):
        (tmp_path / "missing").read_bytes()
    assert [error.value.filename for error in (full, nowhere, other)] == [
        str(path), str(tmp_path / "file" / "a.txt"), str(tmp_path / "missing")
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
