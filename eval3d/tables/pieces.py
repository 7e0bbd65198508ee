# SPDX-License-Identifier: Apache-2.0
"""The work of a table, piece by piece: one cell, some of its images.

A piece that is there is not repeated, so an interruption costs one. Pieces are added in their
order, so that it does not matter who made them, and when.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radseg_ros.datatypes import InputError
from radseg_ros.files import write_whole
from radseg_ros.reading import border, read_arrays
from radseg_ros.segmentation.probabilities import read_rgb

from ..cluster import Outcome, attempt
from ..predictions.images import PredictedImages
from ..report.protocol import Protocol, encoder_protocol, outside_protocol
from ..scoring.images import Classes, Predict, count_pixels, segmented
from .networks import cosine_of, row_encoder
from .plan import PIECE, PREDICTIONS, read_plan

CELLS = "cells"

Source = Callable[[], Protocol]  # who predicts; known once something was predicted
Work = Callable[[list[list[str]]], dict[str, np.ndarray]]  # pairs of files -> sums over them


def piece_names(key: str, images: int) -> list[str]:
    """The pieces of a cell."""
    return [f"{key}/{number}" for number in range(-(-images // PIECE))]


def read_piece(out: Path, name: str, mark: str) -> dict[str, np.ndarray] | None:
    """What a piece found; None where it is not there, damaged, or of another evaluation."""
    path = _file(out, name)
    try:
        arrays = read_arrays(path) if path.is_file() else {}
    except InputError:
        return None
    return arrays if str(arrays.get("mark", "")) == mark else None


def do_piece(name: str, out: str) -> Outcome:
    """One piece, in this process or another, on this machine or another."""
    return attempt(partial(_do, name, Path(out)))


def _do(name: str, out: Path) -> dict[str, Any]:
    plan = read_plan(out)
    with border(out, "a plan of eval3d table"):
        key, _, number = name.rpartition("/")
        cell = plan["cells"][key]
        images = plan["sets"][cell["set"]]
        start = int(number) * PIECE
        pairs = cell.get("pairs", images["pairs"])[start : start + PIECE]
    torch.set_num_threads(cell["threads"] or min(os.cpu_count() or 1, 8))
    labels = {name: images[name] for name in ("classes", "first_label")}
    how = {name: value for name, value in cell.items() if name != "pairs"}
    work, source = _work(*(json.dumps(each, sort_keys=True) for each in (how, labels)))
    found = work(pairs)
    marks = {"mark": np.array(cell["mark"]), "source": np.array(json.dumps(source()))}
    arrays: dict[str, Any] = {**marks, **found}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(_file(out, name), content.getvalue())
    return {"piece": name}


@lru_cache(maxsize=1)
def _work(cell: str, labels: str) -> tuple[Work, Source]:
    """What is done for a cell, and by whom; kept from piece to piece, as loading takes time."""
    how, meaning = json.loads(cell), json.loads(labels)
    names, first_label = meaning["classes"], meaning["first_label"]
    if not names:
        return _alignment(how)
    predict, source = _predictor(how, names)

    def count(pairs: list[list[str]]) -> dict[str, np.ndarray]:
        files = [(Path(image), Path(label)) for image, label in pairs]
        return {"confusion": count_pixels(files, predict, len(names), first_label)}

    return count, source


def _predictor(how: dict[str, Any], names: Classes) -> tuple[Predict, Source]:
    rules = (how["denoise"], how["threshold"])
    if how["encoder"] == PREDICTIONS:
        outside = PredictedImages(Path(how["options"]["folder"]), names, *rules)

        def told() -> Protocol:
            kinds, outside.kinds = outside.kinds, set()  # of one piece, whatever came before it
            return outside_protocol(kinds)

        return outside, told
    encoder = row_encoder(how)
    predict = segmented(encoder, names, how["short_side"], *rules)
    return predict, lambda: encoder_protocol(encoder)


def _alignment(how: dict[str, Any]) -> tuple[Work, Source]:
    measure, source = cosine_of(how)

    def add(pairs: list[list[str]]) -> dict[str, np.ndarray]:
        values = [measure(read_rgb(Path(image))) for image, _ in pairs]
        return {"total": np.array(sum(values)), "images": np.array(len(values))}

    return add, lambda: source


def _file(out: Path, name: str) -> Path:
    return out / CELLS / f"{name}.npz"
