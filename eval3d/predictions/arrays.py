# SPDX-License-Identifier: Apache-2.0
"""The arrays of a prediction: ``labels``, ``probabilities`` or ``features``, and whose they are.

``names`` says which class each column (or label) is; without it they stand in the order of the
class list. ``features`` come with ``text``, one vector per class, and maybe ``logit_scale``, the
factor on the cosine before the softmax (100).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.reading import read_arrays

from ..classes import MAX_NAME
from ..scoring.metrics import LOGIT_SCALE, probabilities, whole_numbers

KINDS = ("labels", "probabilities", "features")
MAX_SCALE = 1e4
ROUNDING = 1e-3  # of probabilities that were kept in half precision

Arrays = dict[str, np.ndarray]


def load_prediction(path: Path, shared: Mapping[str, np.ndarray] | None = None) -> Arrays:
    """The arrays of a file under the names above.

    Args:
        path: an ``.npz``.
        shared: arrays that the file need not repeat.

    Raises:
        InputError: it cannot be read.
    """
    arrays = {**(shared or {}), **read_arrays(path)}
    if "vectors" in arrays:  # what features were called at first
        arrays["features"] = arrays.pop("vectors")
    if "probabilities" in arrays and arrays.get("labels", np.zeros(0)).dtype.kind == "U":
        arrays["names"] = arrays.pop("labels")  # radseg-segment names the classes so
    return arrays


def kind_of(arrays: Arrays, path: Path) -> str:
    """Which of ``KINDS`` a file holds.

    Raises:
        InputError: none, several, or features without text.
    """
    found = [kind for kind in KINDS if kind in arrays]
    if len(found) != 1 or (found == ["features"] and "text" not in arrays):
        held = ", ".join(name[:50] for name in list(arrays)[:20]) or "nothing"
        raise InputError(
            f"{path} holds {held}; need labels, or probabilities, or features with text"
        )
    return found[0]


def numbers(
    arrays: Arrays, name: str, shape: tuple[int | None, ...], path: Path, finite: bool = True
) -> np.ndarray:
    """One of the arrays, of ``shape`` (None = any length).

    Args:
        finite: whether all of it must be; features need not, they predict nothing then.

    Raises:
        InputError: it is something else.
    """
    array = arrays[name]
    fits = array.ndim == len(shape) and all(
        wanted in (None, side) for wanted, side in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "iuf" or not (not finite or np.isfinite(array).all()):
        wanted = ", ".join("N" if side is None else str(side) for side in shape)
        raise InputError(
            f"{path}: {name} must be finite numbers of shape ({wanted}), got {array.dtype} "
            f"{array.shape}"
        )
    return array


def labels_in(
    arrays: Arrays,
    shape: tuple[int | None, ...],
    classes: Sequence[Sequence[str]],
    path: Path,
    first_label: int = 1,
) -> np.ndarray:
    """``labels`` as 1..C of the class list, 0 = no prediction; int64 of ``shape``.

    Args:
        classes: the names of each class.
        first_label: what the file calls the first class; lower ones are no prediction.

    Raises:
        InputError: other numbers, or names that no class has.
    """
    values = numbers(arrays, "labels", shape, path)
    found = whole_numbers(values.ravel(), f"{path}: labels") - (first_label - 1)
    labels = found.clip(min=0).reshape(values.shape)
    names = _names(arrays, path)
    most = len(classes) if names is None else len(names)
    if labels.max(initial=0) > most:
        whose = f"{most} classes of the list" if names is None else f"{most} names of the file"
        largest = labels.max() + first_label - 1
        raise InputError(f"{path} holds the label {largest}, there are {whose}")
    if names is None:
        return labels
    label = {name: number for number, group in enumerate(classes, 1) for name in group}
    if unknown := [name for name in names if name not in label]:
        raise InputError(f"{path}: names has {unknown[0]!r}, which no class of the list is called")
    return np.array([0, *(label[name] for name in names)])[labels]


def probabilities_in(
    arrays: Arrays,
    rows: np.ndarray,
    orders: Sequence[Sequence[str]],
    wanted: Sequence[Sequence[str]],
    path: Path,
) -> tuple[int, np.ndarray]:
    """Class probabilities, from themselves or from features.

    Args:
        rows: (N, Q) probabilities or (N, D) features, as :func:`kind_of` says.
        orders: the names of the columns where the file does not tell: the first that fits.
        wanted: the names to have columns for: the first whose names are all there.

    Returns:
        Which of ``wanted`` it is, and (N, len of it) float32.

    Raises:
        InputError: there is no such column, or numbers that are no probabilities.
    """
    features = kind_of(arrays, path) == "features"
    text = numbers(arrays, "text", (None, rows.shape[1]), path) if features else rows.T
    which, picked = _columns(arrays, len(text), orders, wanted, path)
    if features:
        return which, probabilities(rows, text[picked], _logit_scale(arrays, path))
    low, high = rows.min(initial=0), rows.max(initial=0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(
            f"{path}: probabilities reach from {low:.4g} to {high:.4g}, not from 0 to 1: write "
            "the softmax of logits"
        )
    return which, rows[:, picked].astype(np.float32)


def _columns(
    arrays: Arrays,
    count: int,
    orders: Sequence[Sequence[str]],
    wanted: Sequence[Sequence[str]],
    path: Path,
) -> tuple[int, list[int]]:
    names = _names(arrays, path)
    if names is None:
        names = next((list(order) for order in orders if len(order) == count), None)
        if names is None:
            sizes = " or ".join(str(size) for size in sorted({len(order) for order in orders}))
            raise InputError(
                f"{path} is of {count} classes, the class list asks for {sizes}: name them in "
                "the array names"
            )
    elif len(names) != count:
        raise InputError(f"{path}: names has {len(names)} entries for {count} classes")
    place = {name: column for column, name in enumerate(names)}
    for which, group in enumerate(wanted):
        if all(name in place for name in group):
            return which, [place[name] for name in group]
    missing = next(name for name in wanted[-1] if name not in place)
    raise InputError(f"{path}: names lacks {missing!r}, which the class list asks for")


def _names(arrays: Arrays, path: Path) -> list[str] | None:
    """What ``names`` holds; None where there is no such array."""
    if "names" not in arrays:
        return None
    array = arrays["names"]
    if array.dtype.kind != "U" or array.ndim != 1:
        raise InputError(f"{path}: names must be a vector of texts, got {array.dtype}")
    names = [str(name) for name in array]
    if len(set(names)) < len(names) or any(len(name) > MAX_NAME for name in names):
        raise InputError(f"{path}: names has one twice, or one of over {MAX_NAME} characters")
    return names


def _logit_scale(arrays: Arrays, path: Path) -> float:
    if "logit_scale" not in arrays:
        return LOGIT_SCALE
    scale = float(numbers(arrays, "logit_scale", (), path))
    if not 0 < scale <= MAX_SCALE:
        raise InputError(f"{path}: logit_scale must be above 0 and at most 10000, got {scale:g}")
    return scale
