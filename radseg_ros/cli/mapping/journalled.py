# SPDX-License-Identifier: Apache-2.0
"""A map made of the frames of a journal, with other options than it was mapped with."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...command import complain
from ...config import LABELLED_SPACES, Config, to_dict, with_options
from ...datatypes import ConfigError, FeatureMap, MapFileError, RecordingError
from ...encoders.protocol import Classifier, encoder_options, make_encoder
from ...journal.folder import Journal
from ...journal.record import FRAME, KeyFrame
from ...journal.replay import beginning, frame_of, poses_of, replay
from ...journal.story import Story
from ...spaces import Space, make_space
from ...view.saved_map import config_with, options_in
from ...voxels.bricks.bricks import Bricks
from ...voxels.bricks.saving import save_whole
from ...voxels.bricks.shelf import shelf_at
from ...voxels.camera_path import CameraPath
from ...voxels.map_file import MapIdentity, load_map
from ...voxels.voxel_map import VoxelMap
from .progress import Stop

STORES_ALL = "backbone"  # the space whose vectors can become those of every other one


class Journalled:
    """An encoder that gives, for every image, what the journal has of it."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.features: FeatureMap | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) -> (C, h, w), whatever the image."""
        del rgb
        assert self.features is not None
        return FeatureMap(self.features.data.to(self._encoder.device).float())


def map_journal(
    folder: Path, out: Path, given: dict[str, Any], unconfirmed: bool, stop: Stop
) -> dict[str, Any]:
    """Make a map of a journal -> how it went, as :func:`map_recording` tells it.

    Frames are where corrections have put them. No image is encoded: another space needs the
    language head of the encoder alone.

    Args:
        given: options that differ from those that the journal was begun with.
        unconfirmed: of the run that nobody has confirmed, instead of the map.

    Raises:
        MapFileError: there is no journal, or it is damaged.
        RecordingError: no frame of it can be used.
        ConfigError: its vectors do not allow the space that is asked for.
    """
    started, journal = time.monotonic(), Journal(folder)
    config = with_options(config_with(folder, options_in(journal.about.options)), given)
    story = journal.story()
    steps = story.aside if unconfirmed else story.main
    space, vectors = _other_space(journal, config)
    channels = journal.about.channels if space is None else space.channels
    shelf = shelf_at(config.persistence.disk_directory)
    beyond = None if shelf is None else Bricks(shelf)
    world = None if unconfirmed else _begun_with(journal, story, config, beyond)
    world = world or VoxelMap(channels, config.map, config.lift, beyond=beyond)
    rules = config.lift if any(name.startswith("lift.") for name in given) else None
    camera, complete = CameraPath(), True
    work = replay(journal, steps, world, camera, poses_of(journal, steps), rules, vectors)
    for _ in tqdm(work, folder.name[:30], len(steps), unit="frame", disable=None):
        if stop():
            complete = False
            break
    if not camera.frames:
        why = "; ".join(f"{count} x {reason}" for reason, count in journal.damaged.most_common())
        raise RecordingError(f"{folder}: no frame can be used ({why or 'there is none'})")
    identity = journal.about.identity if space is None else space.identity
    identity = dataclasses.replace(identity, frame_id=frame_of(journal, steps))
    notes = {"options": to_dict(config), "camera": camera.note()}
    voxels = save_whole(out, world, identity, notes)
    return {
        "out": str(out),
        "voxels": voxels,
        "bytes": out.stat().st_size,
        "used": camera.frames,
        "frames": sum(step.kind == FRAME for step in steps),
        "complete": complete,
        "dropped": dict(journal.damaged.most_common()),
        "examples": {},
        "seconds": time.monotonic() - started,
    }


def _other_space(
    journal: Journal, config: Config
) -> tuple[Space | None, Callable[[KeyFrame], FeatureMap] | None]:
    """What voxels store if that is something else than the journal does, and how to get it.

    Raises:
        ConfigError: it cannot be had from what the journal stores.
    """
    about = journal.about
    same_labels = config.map.space != "probability" or tuple(config.map.labels) == (
        about.identity.labels
    )
    if config.map.space == about.space and same_labels:
        return None, None
    if about.space != STORES_ALL:
        raise ConfigError(
            f"the journal {journal.folder} stores vectors of space {about.space}: only those of "
            f"{STORES_ALL} can become {config.map.space}"
        )
    encoder = make_encoder(config.encoder, **encoder_options(config, config.encoder))
    if config.map.space in LABELLED_SPACES and isinstance(encoder, Classifier):
        raise ConfigError(f"encoder {encoder.name} needs images for probabilities, not vectors")
    stored = Journalled(encoder)
    space = make_space(config, stored)
    made_by = MapIdentity(encoder.name, encoder.checkpoint_hash, encoder.language)
    about.identity.require(made_by, f"the journal {journal.folder}")

    def vectors(key_frame: KeyFrame) -> FeatureMap:
        stored.features = key_frame.features
        return space.features(key_frame.frame.rgb)

    return space, vectors


def _begun_with(
    journal: Journal, story: Story, config: Config, beyond: Bricks | None
) -> VoxelMap | None:
    """The map file that the frames were added to, where it goes with the options."""
    begun = beginning(journal, story, None)
    if begun.path is None:
        return None
    try:
        return load_map(begun.path, config=config.map, lift=config.lift, beyond=beyond)[0]
    except MapFileError as error:
        complain("radseg-map", f"{error}: the map has the frames of the journal only")
        return None
