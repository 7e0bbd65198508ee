# SPDX-License-Identifier: Apache-2.0
"""A map that grows from a recording, in a file from which it can go on."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import numpy as np

from eval3d.cluster import attempt

from ...config import Config, Option, options_of, with_options
from ...datatypes import ConfigError, Frame, InputError, MapFileError, RecordingError, brief
from ...device import with_memory
from ...encoders.protocol import Encoder, encoder_options, make_encoder
from ...frames.drops import Unusable
from ...frames.folder import Recording
from ...frames.keyframes import KeyFrames
from ...mapper import Mapper
from ...reading import MISFITS
from ...view.saved_map import OF_THE_MACHINE, config_of, portable
from ...voxels.bricks.saving import save_whole
from ...voxels.camera_path import CameraPath
from ...voxels.map_file import read_header
from .progress import Stop, Update, no_bar
from .recordings import open_named

# what another run may choose anew: nothing in the map depends on it
FREE = ("map.autosave", "map.autosave_period", "map.work_ahead", "map.cache_projections")
WORLD = "map"  # the frame of recordings that do not name one; `radseg-play` calls it so too


class RecordedMap:
    """Takes frame after frame of a recording, by the rules of the node, into a map.

    Between two frames the map can be saved, together with how much of the recording is in it; who
    resumes from such a file gets the map that there would be without the break.

    Args:
        path: the file.
    """

    def __init__(self, mapper: Mapper, recording: Recording, path: Path) -> None:
        self.mapper, self.recording, self.path = mapper, recording, path
        self.read = 0  # number behind the last frame that was taken from the recording
        self.used = 0  # frames in the map
        self.voxels = 0  # in the file
        self.complete = False
        self.camera = CameraPath()
        self._earlier: Counter[str] = Counter()  # drops up to where this run began
        self._keyframes = KeyFrames()
        self._wanted = False  # a frame was asked for that has not come yet

    def resume(self) -> None:
        """Go on from the file.

        Raises:
            MapFileError: it is damaged, does not fit the mapper, or is not of this recording.
        """
        header = read_header(self.path)
        found = header.notes.get("recording")
        if not isinstance(found, dict):
            raise MapFileError(f"{self.path} does not tell which frames are in it: map anew")
        here = self._identity()
        for what, value in here.items():
            if found.get(what) != value:
                raise MapFileError(
                    f"{self.path} is of another recording: {what} "
                    f"{brief(repr(found.get(what)))}, here it is {value!r}"
                )
        try:
            self.read, self.used = int(found["read"]), int(found["used"])
            self.complete = found["complete"] is True
            self._earlier = Counter({str(k): int(n) for k, n in found["dropped"].items()})
            self._keyframes.restore(found["keyframes"])
        except MISFITS as error:
            raise MapFileError(f"{self.path} is damaged: impossible notes of frames") from error
        self.camera = CameraPath.of(header)
        self.mapper.take(self.mapper.read(self.path)[0])
        self.voxels = self.mapper.voxels

    def steps(self) -> Iterator[None]:
        """Map what is left, and pause after every frame that was looked at."""
        for number, frame in self.recording.frames(self.read, skip=self._skip):
            self._add(frame)
            self.read = number + 1
            yield
        self.complete = True

    def save(self) -> None:
        """Write the file.

        Raises:
            MapFileError: it cannot be written.
        """
        mapper, node = self.mapper, self.mapper.config.node
        identity = mapper.identity(self.recording.map_frame or node.map_frame or WORLD)
        recording = {**self._identity(), **self._progress()}
        notes = {**mapper.notes(), "recording": recording, "camera": self.camera.note()}
        self.voxels = save_whole(self.path, mapper.map, identity, notes)

    @property
    def dropped(self) -> Counter[str]:
        """Reason -> messages and frames that were not used, of this run and those before it."""
        here = Counter(dict(self.recording.drops.items()))
        return self._earlier + (here - Counter(self.recording.before))

    def check(self) -> None:
        """Raise RecordingError if nothing of the recording is in the map; lists why."""
        if self.used:
            return
        examples = self.recording.drops.examples
        why = "; ".join(
            f"{count} x {reason}" + (f", e.g. {examples[reason]}" if reason in examples else "")
            for reason, count in self.dropped.most_common()
        )
        raise RecordingError(f"{self.recording.path}: no frame can be used ({why or 'none came'})")

    def _identity(self) -> dict[str, Any]:
        return {"name": self.recording.path.absolute().name, "frames": len(self.recording)}

    def _progress(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "used": self.used,
            "complete": self.complete,
            "dropped": dict(self.dropped),
            "keyframes": self._keyframes.state(),
        }

    def _skip(self, stamp_ns: int, T_world_camera: np.ndarray) -> str:
        if self._wanted:  # the last one that was wanted could not be decoded
            self._keyframes.forget()
        reason = self._keyframes.skip(stamp_ns, T_world_camera, self.mapper.config.node)
        self._wanted = not reason
        return reason

    def _add(self, frame: Frame) -> None:
        self._wanted = False
        try:
            stats = with_memory(lambda: self.mapper.integrate(frame))
            if not stats.points:
                raise Unusable(stats.why_nothing)
            self.used += 1
            self.camera.add(frame.T_world_camera)
        except InputError as error:
            self.recording.drops.add_error(error)
            self._keyframes.forget()  # the map does not show what it shows


def map_recording(
    name: str,
    task: dict[str, Any],
    show: Callable[[RecordedMap], AbstractContextManager[Update]] = no_bar,
    stop: Stop = lambda: False,
) -> dict[str, Any]:
    """Map one recording into its file -> how far it is.

    Args:
        task: "out", "given" options, "reading", "resume"; plain values, so that it can be sent.
        show: makes a bar.

    Raises:
        RadsegRosError: the recording, the encoder or the file cannot be used, or no frame can.
    """
    out = Path(task["out"])
    resume = task["resume"] and out.exists()
    config = _config(out, task["given"], resume)
    recording = open_named(name, task["reading"], config)
    grown = RecordedMap(Mapper(config, _encoder(config)), recording, out)
    if resume:
        grown.resume()
    started = time.monotonic()
    if not grown.complete:
        _grow(grown, show, stop, 60.0 * config.persistence.autosave_period)
    return {
        "out": str(out),
        "voxels": grown.voxels,
        "bytes": out.stat().st_size if out.exists() else 0,
        "used": grown.used,
        "frames": len(recording),
        "complete": grown.complete,
        "dropped": dict(grown.dropped.most_common()),
        "examples": recording.drops.examples,
        "seconds": time.monotonic() - started,
    }


def attempt_recording(name: str, tasks: dict[str, Any]) -> dict[str, Any] | str:
    """One recording in another process or on another machine: how far it is, or why not."""
    return attempt(lambda: map_recording(name, tasks[name]))


def _grow(
    grown: RecordedMap,
    show: Callable[[RecordedMap], AbstractContextManager[Update]],
    stop: Stop,
    period: float,
) -> None:
    """Map frames until the recording or the patience ends; save every ``period`` s and then."""
    saved_at = time.monotonic()
    try:
        with show(grown) as update:
            for _ in grown.steps():
                update()
                if stop():
                    break
                if period and grown.used and time.monotonic() - saved_at > period:
                    grown.save()
                    saved_at = time.monotonic()
    except Exception:  # of a GPU without memory, say: what is there is worth something
        if grown.used:
            grown.save()
        raise
    if grown.complete:
        grown.check()
    if grown.used:
        grown.save()


def _config(out: Path, given: dict[str, Any], resume: bool) -> Config:
    """All options; of a map that is continued those that it was begun with.

    Raises:
        ConfigError: another value is asked for than the map was begun with.
    """
    if not resume:
        return with_options(Config(), given)
    begun = config_of(out, read_header(out))
    config = with_options(begun, given)
    for option in options_of(Config).values():
        before, now = (_value(option, each) for each in (begun, config))
        free = option.name in FREE or option.path[-1] in OF_THE_MACHINE
        if before != now and not free:
            raise ConfigError(f"{out} was begun with {option.name} {before}, here it is {now}")
    return config


def _value(option: Option, config: Config) -> Any:
    """What ``option`` is, as far as it says something of the map."""
    value: Any = reduce(getattr, option.path, config)  # type: ignore[arg-type]
    return portable(value) if option.name == "encoder_options" else value


def _encoder(config: Config) -> Encoder:
    """The encoder; the same one for equal options, so that weights are loaded once."""
    options = encoder_options(config, config.encoder)
    return _made_encoder(config.encoder, json.dumps(options, sort_keys=True))


@lru_cache(maxsize=1)
def _made_encoder(name: str, options: str) -> Encoder:
    return make_encoder(name, **json.loads(options))
