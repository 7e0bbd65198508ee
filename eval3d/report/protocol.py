# SPDX-License-Identifier: Apache-2.0
"""How a number came about, in one block that can be pasted into a paper.

Two results may be compared where their blocks agree; ``eval3d diff`` says where they do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from radseg_ros.config import to_dict

from ..datasets import DATASETS
from ..datasets.labelled_images import VOID
from ..options import EvalConfig
from ..provenance import digest, git_revision, versions
from .runs import Run, flatten

if TYPE_CHECKING:
    from radseg_ros.encoders.protocol import Encoder


Protocol = dict[str, str]  # what -> how, in the order of the block

OTHERS = "other options"
OUTSIDE = "another program's"  # in the place of an encoder
UNKNOWN = "unknown (the map came from a file)"
MANY = 12  # scenes that are named one by one
# options of an encoder that say where things are, or are stated in words
PLACES = frozenset(
    "checkpoint device text_embeddings text_tower offline preset crop stride side".split()
)
# options that the block states in words, and those that cannot change a number
STATED = frozenset(
    "dataset root classes encoder gt gt_rule gt_voxel_size protocol ignore k denoise_threshold "
    "denoise_chunk prediction_threshold frame_skip limit short_side map.voxel_size map.space "
    "map.labels radseg.checkpoint radseg.preset radseg.crop radseg.stride radseg.side".split()
)
IDLE = frozenset(
    "threads radseg.device lite.device map.device radseg.offline radseg.text_embeddings "
    "radseg.text_tower map.cache_projections map.work_ahead".split()
)
UNUSED = ("grid.", "sync.", "node.", "topics.")  # by an evaluation


def block(protocol: Mapping[str, str]) -> str:
    """The protocol as lines of text."""
    return "".join(f"{what}: {how}\n" for what, how in protocol.items())


def run_protocol(run: Run) -> Protocol:
    """The protocol of maps that were scored in 3D."""
    options, first = run.options, run.scenes[0]["provenance"]
    names = [scene["scene"] for scene in run.scenes]
    said = ", ".join(names) if len(names) <= MANY else f"{names[0]} to {names[-1]}"
    many = "scene" if len(names) == 1 else "scenes"
    from_file = not any(scene["frames"]["listed"] for scene in run.scenes)
    return {
        "data": f"{options['dataset']}, {len(names)} {many}: {said}",
        "frames": _frames(run),
        "resolution": UNKNOWN if from_file else resolution_of(options["short_side"]),
        "encoder": str(first["encoder"]),
        "weights": _weights(run),
        "windows": UNKNOWN if from_file else str(first.get("windows", "unknown")),
        "map": str(first.get("map") or map_text(options["map.voxel_size"], options["map.space"])),
        **_classes(first["classes"]),
        "ground truth": _ground_truth(run),
        "k": f"{options['k']} nearest voxels vote" if options["k"] else "0 (the same voxel)",
        "denoising": _denoising(options["denoise_threshold"], options["denoise_chunk"]),
        "prediction threshold": f"{options['prediction_threshold']:g}",
        "scoring": f"{options['protocol']}; means over scenes",
        OTHERS: _others(options),
        "program": program(first["versions"], first["git"]),
    }


def image_protocol(
    data: str,
    images: int,
    short_side: int | None,
    encoder: Protocol,
    classes: Sequence[Sequence[str]],
    first_label: int,
    denoise_threshold: float,
    threshold: float,
    background: bool = False,
) -> Protocol:
    """The protocol of images that were scored in 2D.

    Args:
        data: what the images are.
        images: how many of them.
        short_side: px that they were brought to; 0 = as they are, None = nobody knows.
        encoder: as :func:`encoder_protocol` or :func:`outside_protocol` say.
        classes: the names of each class.
        first_label: value of the first class in label images.
        background: whether the first class gets what is predicted as none.
    """
    names = sum(map(len, classes))
    synonyms = f" with {names} names" if names > len(classes) else ""
    rest = "; the first one gets what is predicted as none" if background else ""
    lower = f"values below {first_label} and " if first_label > 0 else ""
    seen = "unknown" if short_side is None else resolution_of(short_side)
    found = digest([list(group) for group in classes])[:12]
    return {
        "data": data,
        "images": f"{images} used",
        "resolution": f"{seen}; scored at the size of the label images",
        **{name: how for name, how in encoder.items() if name != OTHERS},
        "classes": f"{len(classes)}{synonyms} (list SHA-256 {found}...){rest}",
        "ignored classes": f"{lower}{VOID}",
        "denoising": _denoising(denoise_threshold, where="image"),
        "prediction threshold": f"{threshold:g}",
        "scoring": "mean over the classes that occur or are predicted",
        OTHERS: encoder[OTHERS],
        "program": program(versions(), git_revision()),
    }


def encoder_protocol(encoder: Encoder) -> Protocol:
    """What an encoder is: its name, weights, windows, and options that are not its defaults."""
    config = getattr(encoder, "config", None)
    changed: list[str] = []
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        usual = dict(_flat(dataclasses.asdict(type(config)())))
        changed = [
            f"{name}={value}"
            for name, value in sorted(_flat(dataclasses.asdict(config)))
            if name not in PLACES and value != usual.get(name)
        ]
    return {
        "encoder": encoder.name,
        "weights": weights_of(encoder.checkpoint_hash),
        "windows": encoder_windows(encoder),
        OTHERS: ", ".join(changed) or "none",
    }


def outside_protocol(kinds: Iterable[str], sha256: str = "") -> Protocol:
    """The same of predictions that came in files."""
    return {
        "encoder": f"{OUTSIDE} {' and '.join(sorted(kinds))}",
        "weights": f"unknown (files SHA-256 {sha256[:12]}...)" if sha256 else "unknown",
        "windows": "unknown",
        OTHERS: "none",
    }


def program(packages: Mapping[str, str], git: str) -> str:
    """Versions that can change a number."""
    said = [f"{name} {packages[name]}" for name in ("radseg_ros", "torch") if name in packages]
    return ", ".join([*said, f"revision {git}"])


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield name, value


def encoder_windows(encoder: Encoder) -> str:
    """How an encoder cuts an image, where it tells; crop 0 = not at all."""
    crop, stride = getattr(encoder, "crop", None), getattr(encoder, "stride", None)
    if crop is None or stride is None:
        return "as the encoder does"
    seen = f", images at a short side of {side} px" if (side := getattr(encoder, "side", 0)) else ""
    return (f"{crop} px every {stride} px" if crop else "none (single pass)") + seen


def weights_of(found: str) -> str:
    """The hash of weights, which encoders without any leave empty."""
    return f"SHA-256 {found}..." if found else "none"


def map_text(voxel_size: float, space: str) -> str:
    """What a map is made of."""
    return f"voxels of {100 * voxel_size:g} cm, {space}"


def resolution_of(short_side: int) -> str:
    """To what size images are brought."""
    return f"short side {short_side} px" if short_side else "as recorded"


def _classes(found: Mapping[str, Any]) -> Protocol:
    """Results of earlier versions do not say how many there were, and which were left out."""
    ignored = found.get("ignored")
    known = isinstance(ignored, list) and all(isinstance(name, str) for name in ignored)
    said = ", ".join(ignored or ["none"]) if known else "unknown"  # type: ignore[arg-type]
    count = f", {found['count']} classes" if "count" in found else ""
    return {"classes": f"{found['name']}{count}", "ignored classes": said}


def _weights(run: Run) -> str:
    sources = [scene["provenance"] for scene in run.scenes]
    if str(sources[0]["encoder"]).startswith(OUTSIDE):
        return "unknown"
    hashes = {str(source.get("checkpoint_hash") or "") for source in sources}
    return "; ".join(sorted(map(weights_of, hashes)))


def _frames(run: Run) -> str:
    frames = [scene["frames"] for scene in run.scenes]
    used, listed = (sum(each[key] for each in frames) for key in ("used", "listed"))
    if not listed:
        return UNKNOWN
    dataset, skip = DATASETS.get(run.options["dataset"]), run.options["frame_skip"]
    step = (dataset.frame_skip if skip < 0 and dataset else max(skip, 0)) + 1
    some = "every one" if step == 1 else f"those numbered 0, {step}, {2 * step}, ..."
    limit = run.options["limit"]
    most = f" (at most {limit} of a scene)" if limit else ""
    return f"{used} used of {listed}: {some}{most}"


def _ground_truth(run: Run) -> str:
    sources = sorted({scene["ground_truth"] for scene in run.scenes})
    size = run.options["gt_voxel_size"] or run.options["map.voxel_size"]
    said = sources[0] if len(sources) == 1 else f"{len(sources)} files, e.g. {sources[0]}"
    return f"{said}, voxels of {100 * size:g} cm"


def _denoising(threshold: float, chunk: int = 0, where: str = "map") -> str:
    if not threshold:
        return "off"
    place = f"{chunk} voxels in map order" if chunk else f"the whole {where}"
    return f"classes below {threshold:g} in {place} are removed"


def _others(options: Mapping[str, Any]) -> str:
    """Everything that is not its default and not said above."""
    defaults = flatten(to_dict(EvalConfig()))
    idle = {"radseg", "lite", "oracle"} - {options["encoder"]}
    if not options.get("retrieval") and not options.get("labels"):
        idle.add("query")
    changed = [
        f"{name}={value}"
        for name, value in sorted(options.items())
        if name not in STATED | IDLE
        and not name.startswith(UNUSED)
        and name.split(".")[0] not in idle
        and value != defaults.get(name)
    ]
    return ", ".join(changed) or "none"
