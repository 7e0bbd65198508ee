# SPDX-License-Identifier: Apache-2.0
"""Drive the mapper over a scene and score its map: the mapper and the frames of the node."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from radseg_ros.config import LABELLED_SPACES, from_dict, one_of, to_dict
from radseg_ros.datatypes import ConfigError, InputError, RecordingError
from radseg_ros.encoders.protocol import Encoder, encoder_options, make_encoder
from radseg_ros.files import write_whole
from radseg_ros.frames.drops import DropCounts
from radseg_ros.geometry import resize_frame
from radseg_ros.mapper import Mapper, Timings

from .asking.labels import read_label_file
from .asking.scene import ask_scene
from .classes import ClassList, load_classes
from .datasets import DATASETS, SceneSource, open_scene
from .datasets.scene import nearest_resize
from .options import EvalConfig, with_options
from .oracle import ORACLE, OracleEncoder
from .provenance import fingerprint, provenance
from .report.protocol import encoder_windows
from .report.results import METRICS, read_metrics, to_json, write_scene
from .scoring.score import label_map, metrics_dict, queried_names, score_scene
from .truth.ground_truth import GroundTruth, LabelLifter, from_points
from .truth.instances import lifted_instances, point_instances

log = logging.getLogger(__name__)

Progress = Callable[[SceneSource], Iterator[Any]]


def classes_of(config: EvalConfig, scene: str = "") -> ClassList:
    """The class list of an evaluation.

    Raises:
        InputError: none was given and the data set brings none (meta.json of a folder).
    """
    if config.classes:
        return load_classes(config.classes)
    spec = DATASETS[one_of("dataset", config.dataset, DATASETS)]
    if spec.classes:
        return load_classes(spec.classes)
    root = Path(config.root)
    for folder in (root / scene, root, root.parent):
        if (folder / "meta.json").is_file():
            return load_classes(folder / "meta.json")
    raise InputError(
        f"say which classes to score (--classes LIST): {root} has no meta.json that names them"
    )


def scene_names(config: EvalConfig, scenes: list[str]) -> list[str]:
    """What to evaluate: the names given, the paper's scenes, or the one recording at ``root``."""
    if scenes and scenes != ["paper"]:
        for name in scenes:  # results go to a folder of this name below --out
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ConfigError(f"{name!r} is no name of a scene: it leads out of the data set")
        return list(dict.fromkeys(scenes))
    paper = DATASETS[one_of("dataset", config.dataset, DATASETS)].paper_scenes
    return list(paper) or [Path(config.root).resolve().name]


def make_scene_encoder(config: EvalConfig, classes: ClassList) -> Encoder:
    """The encoder of an evaluation.

    The same one for equal options, so that weights are loaded once per process.
    """
    if config.encoder == ORACLE:
        options = {**to_dict(config.oracle), "seed": config.seed, "names": list(classes.names)}
    else:
        options = encoder_options(config.mapper, config.encoder)
    return _cached_encoder(config.encoder, json.dumps(options, sort_keys=True))


@lru_cache(maxsize=1)
def _cached_encoder(name: str, options: str) -> Encoder:
    if name == ORACLE:
        return OracleEncoder(**json.loads(options))
    return make_encoder(name, **json.loads(options))


def set_threads(config: EvalConfig) -> None:
    """Use a number of threads that is the same with any --jobs: sums keep their order."""
    torch.set_num_threads(config.threads or min(os.cpu_count() or 1, 8))


def _ground_truth_file(config: EvalConfig, scene: str) -> Path | None:
    """The file of labelled points; None = lifted from label images."""
    patterns = (config.gt,) if config.gt else DATASETS[config.dataset].ground_truth
    tried = []
    for pattern in patterns:
        if pattern == "lifted":
            return None
        path = Path(pattern.replace("{root}", config.root).replace("{scene}", scene))
        if path.is_file():
            return path
        tried.append(str(path))
    raise InputError(
        f"no ground truth for {scene}: give --gt FILE (.ply, .npz, .pt); looked for "
        f"{', '.join(tried) or 'none'}"
    )


def ground_truth_points(config: EvalConfig, classes: ClassList, path: Path) -> GroundTruth:
    """Labelled points of a file, as the options say."""
    spec = DATASETS[config.dataset]
    rule = "majority" if config.gt_rule == "auto" else config.gt_rule
    voxel_size = config.gt_voxel_size or config.mapper.map.voxel_size
    return from_points(path, classes, voxel_size, config.gt_holds or spec.points_hold, rule)


def _lifted_rule(config: EvalConfig) -> str:
    return (
        {"radseg": "non_ignored", "hovsg": "majority"}[config.protocol]
        if config.gt_rule == "auto"
        else config.gt_rule
    )


@dataclass(slots=True)
class Usage:
    """What became of the frames of a scene."""

    used: int = 0  # frames that added points to the map
    pixels: Counter[str] = field(default_factory=Counter)  # fused, or the reason why not
    drops: DropCounts = field(default_factory=DropCounts)  # frames that were read and added nothing

    def as_dict(self, scene: SceneSource) -> dict[str, Any]:
        """All frames and pixels by reason, as a result file has them."""
        return {
            "listed": len(scene),
            "used": self.used,
            "dropped": dict(Counter(scene.dropped) + Counter(dict(self.drops.items()))),
            "pixels": dict(self.pixels),
            "notes": scene.notes,
            "examples": {**scene.examples, **self.drops.examples},
        }


def build_map(
    config: EvalConfig,
    scene: SceneSource,
    encoder: Encoder,
    lifter: LabelLifter | None = None,
    progress: Progress = iter,
    things: LabelLifter | None = None,
) -> tuple[Mapper, Usage]:
    """Integrate every frame of the scene -> the mapper, and what became of the frames.

    Args:
        lifter: collects the labels of the frames; None = they are not asked for.
        things: the same for the images of instances.

    Raises:
        RecordingError: the map stays empty; lists why.
    """
    named = dataclasses.replace(config.mapper, encoder=config.encoder)  # its files tell
    mapper, usage = Mapper(named, encoder), Usage()
    for number, item in enumerate(progress(scene)):
        if isinstance(encoder, OracleEncoder):
            encoder.look(item.label, number)
        try:
            stats = mapper.integrate(item.frame)
        except InputError as error:
            usage.drops.add("frame refused", example=f"{item.name}: {error}")
            continue
        usage.pixels.update(Counter({"fused": stats.points}) + Counter(stats.dropped))
        if stats.points:
            usage.used += 1
        else:
            usage.drops.add(stats.why_nothing, example=item.name)
        for collects, image in ((lifter, item.label), (things, item.instance)):
            if collects is not None and image is not None:
                with mapper.timings.stage("lift labels"):
                    frame = resize_frame(item.frame, config.mapper.short_side)
                    collects.add(frame, nearest_resize(image, frame.depth.shape))
    if not usage.used:
        frames = usage.as_dict(scene)
        why = said(frames["dropped"], frames["examples"])
        raise RecordingError(f"not one of its {len(scene)} frames can be used ({why})")
    if not len(mapper.map):
        raise RecordingError(
            "the map is empty: every voxel was removed again (map.carve_after, map.forget_after, "
            "map.max_voxels, map.max_bytes)"
        )
    return mapper, usage


def said(reasons: dict[str, int], examples: dict[str, str]) -> str:
    """Counts by reason and an example of each, for a sentence."""
    parts = (
        f"{count} x {reason}" + (f", e.g. {examples[reason]}" if reason in examples else "")
        for reason, count in reasons.items()
    )
    return "; ".join(parts) or "none"


def evaluate_scene(
    config: EvalConfig, name: str, out: Path, progress: Progress = iter, save_map: bool = False
) -> dict[str, Any]:
    """Evaluate one scene and write its results under ``out/name``.

    A scene that is there already is not computed again.

    Raises:
        RadsegRosError: the scene, its ground truth or the encoder cannot be used.
    """
    classes = classes_of(config, name)
    if config.mapper.map.space in LABELLED_SPACES:
        config = with_options(config, {"map.labels": queried_names(config, classes)})
    scene = open_scene(config, name, classes)
    points = _ground_truth_file(config, name)
    others = read_label_file(Path(config.labels)) if config.labels else None
    listing = scene.listing()
    listing += [f"{points.name} {points.stat().st_size}"] if points else []
    listing += [f"labels {others.digest}"] if others else []
    mark = fingerprint(config, classes, listing)
    folder = out / name
    if done := _finished(folder, mark):
        log.info("%s: done already", name)
        return done
    set_threads(config)
    timings = Timings()
    with timings.stage("total"):
        gt = ground_truth_points(config, classes, points) if points else None
        with timings.stage("load encoder"):
            encoder = make_scene_encoder(config, classes)
            if config.mapper.map.space not in LABELLED_SPACES:
                encoder.embed_labels(queried_names(config, classes))  # fails before a long walk
        size = config.gt_voxel_size or config.mapper.map.voxel_size
        lifter = None if gt else LabelLifter(size)
        things = LabelLifter(size) if config.asks and not points else None
        with timings.stage("read and map"):
            mapper, usage = build_map(config, scene, encoder, lifter, progress, things)
        if lifter is not None:
            gt = _lifted(lifter, config, scene)
        assert gt is not None  # one of the two
        with timings.stage("predict"):
            labelled = label_map(mapper.map, mapper.space, encoder, config, classes)
        if not labelled.label.any():
            _tell_nothing_found(name, config)
        with timings.stage("score"):
            found = score_scene(labelled, gt, config, classes)
        asked: dict[str, Any] = {}
        if config.asks:
            with timings.stage("ask"):
                number = lifted_instances(things, gt) if things else None
                number = point_instances(points, gt) if points else number
                absent = others.absent if others else ()
                asked = ask_scene(mapper, gt, number, config, classes, absent)
    metrics = {
        "scene": name,
        "fingerprint": mark,
        **metrics_dict(found, labelled, gt, classes),
        **asked,
        "frames": usage.as_dict(scene),
        "provenance": {
            **provenance(config, classes),
            "encoder": encoder.name,
            "checkpoint_hash": encoder.checkpoint_hash,
            "windows": encoder_windows(encoder),
            "inputs_sha256": scene.digest(),
            "ground_truth_sha256": gt.digest,
            "map_sha256": labelled.digest,
        },
    }
    stages = {f"mapper: {stage}": seconds for stage, seconds in mapper.timings.seconds.items()}
    times = {"scene": name, "frames": usage.used, "seconds": {**timings.seconds, **stages}}
    write_scene(folder, metrics, times, found, labelled, gt, classes)
    if save_map:
        mapper.save(folder / "map.radmap")
    return {"folder": folder, **metrics}


def _lifted(lifter: LabelLifter, config: EvalConfig, scene: SceneSource) -> GroundTruth:
    """The ground truth of the label images.

    Raises:
        InputError: there is none; with what the scene left out.
    """
    try:
        return lifter.result(_lifted_rule(config))
    except InputError as error:
        why = f" ({said(scene.notes, scene.examples)})" if scene.notes else ""
        raise InputError(f"{error}{why}") from error


def _tell_nothing_found(name: str, config: EvalConfig) -> None:
    log.warning(
        "%s: no voxel has a class: no class reaches denoise_threshold %g anywhere, or none "
        "prediction_threshold %g",
        *(name, config.denoise_threshold, config.prediction_threshold),
    )


def _finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """The result of a scene, if it is whole and of the same evaluation."""
    try:
        done = read_metrics(folder) if (folder / METRICS).is_file() else None
    except InputError as error:
        log.warning("%s; it is computed again", error)
        return None
    return done if done and done.get("fingerprint") == mark else None


def run_scene(
    options: dict[str, Any], name: str, out: str, save_map: bool = False
) -> dict[str, Any]:
    """:func:`evaluate_scene` with arguments that can be sent to another process or machine."""
    return evaluate_scene(from_dict(EvalConfig, options), name, Path(out), save_map=save_map)


def write_run(config: EvalConfig, names: list[str], out: Path) -> None:
    """``run.json``: what was asked for, so that a folder of results explains itself."""
    classes = classes_of(config, names[0])
    write_whole(out / "run.json", to_json({"scenes": names, **provenance(config, classes)}))
