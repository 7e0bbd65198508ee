# SPDX-License-Identifier: Apache-2.0
"""Colour + depth + interpolated pose, paired by their stamps.

No ROS, no clock: the same in the node and offline.

The result does not depend on the order in which the topics arrive, except where an input is lost or
a queue overflows.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..config import NodeConfig, SyncConfig
from ..datatypes import InputError
from .decode import camera_frame
from .drops import DropCounts
from .ledger import IMAGES, Ledger
from .localizer import Localizer
from .transforms import STAMP, NotYet, holds, to_ns

SAID = {"color": "colour", "depth": "depth"}  # in messages


class _Stamped(NamedTuple):
    stamp_ns: int
    data: Any


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Inputs that belong to one moment."""

    stamp_ns: int  # of the depth image: it makes the geometry
    color: Any  # as it was given to add_color
    depth: Any  # as it was given to add_depth
    T_world_camera: np.ndarray  # (4, 4) float64, at stamp_ns


class FrameSync:
    """Collects stamped inputs and returns complete matches, in the order of their stamps.

    A colour and a depth image match when they are nearest to each other and at most ``max_skew``
    apart. The pose is interpolated between the poses around the image; there is no extrapolation
    and never an identity. Whatever cannot be used is counted under a reason that a user can act on.

    Args:
        node: where the poses come from; see :class:`Localizer`.
        ledger: counts what is dropped.
        localizer: shared with other cameras; None = one of its own, with the same ledger.
        camera: whose images these are, where there are several.

    Raises:
        InputError: ``node.camera_offset`` is not a rigid transform.
    """

    def __init__(
        self,
        config: SyncConfig | None = None,
        node: NodeConfig | None = None,
        ledger: Ledger | None = None,
        localizer: Localizer | None = None,
        camera: str = "",
    ) -> None:
        self.config = config or SyncConfig()
        self.ledger = ledger or Ledger()
        self.localizer = localizer or Localizer(self.config, node, self.ledger)
        self._camera = camera
        self.jumps = 0  # times that a stamp went backwards by more than any delay explains
        self._images: dict[str, list[_Stamped]] = {"color": [], "depth": []}
        self._pairs: list[_Stamped] = []  # data = (color, depth)
        self._missing: str | NotYet = "image pair without a pose"  # what the oldest pair waits for
        # stamps of images that were paired: sent again, they would count twice
        self._paired: dict[str, deque[int]] = {
            kind: deque(maxlen=2 * self.config.queue) for kind in IMAGES
        }
        self._newest: dict[str, int] = {}  # stamp per kind of input
        self._last_match_ns: int | None = None

    def add_color(self, stamp_ns: int, image: Any) -> list[Match]:
        """Take a colour image (anything: it is handed through) and return what became complete."""
        return self._add_image("color", stamp_ns, image)

    def add_depth(self, stamp_ns: int, image: Any) -> list[Match]:
        """Take a depth image (anything: it is handed through) and return what became complete."""
        return self._add_image("depth", stamp_ns, image)

    def see_pose(self, stamp_ns: int) -> None:
        """Note that the localizer has got a pose; :meth:`complete` uses it."""
        self._see("pose", stamp_ns)

    def flush(self) -> list[Match]:
        """The inputs have ended: decide what still waits without knowing more; count the rest."""
        self._match_images(final=True)
        matches = self.complete()
        while self._pairs:
            self._drop_pairs(1)
            matches += self.complete()
        for kind, images in self._images.items():
            self.ledger.drop(self._unpaired(kind), (kind,), len(images))
            images.clear()
        return matches

    def clear(self, reason: str) -> None:
        """Forget every waiting image, counted as dropped for ``reason``; poses stay."""
        for kinds, queue in self._queues():
            self.ledger.drop(reason, kinds, len(queue))
            queue.clear()
        self._forget_paired()

    @property
    def drops(self) -> DropCounts:
        """Why inputs were not used."""
        return self.ledger.drops

    @property
    def waiting(self) -> dict[str, int]:
        """How many inputs of each kind are not decided yet; images wait alone or in pairs."""
        images = {kind: len(queue) + len(self._pairs) for kind, queue in self._images.items()}
        return {**images, **self.localizer.waiting}

    def _queues(self) -> list[tuple[tuple[str, ...], list[_Stamped]]]:
        """Images that wait, and of which kinds each item of a queue is."""
        return [*(((kind,), queue) for kind, queue in self._images.items()), (IMAGES, self._pairs)]

    # Time

    def _see(self, kind: str, stamp_ns: int) -> None:
        """Note the newest stamp; a jump back (a bag that starts again) voids all that is later."""
        newest = self._newest.get(kind, stamp_ns)
        if stamp_ns < newest - to_ns(self.config.max_pose_gap + self.config.pose_wait):
            self.jumps += 1
            self._purge(after_ns=stamp_ns)
            self.localizer.void(stamp_ns, self._camera)
        self._newest[kind] = max(self._newest.get(kind, stamp_ns), stamp_ns)

    def _purge(self, after_ns: int) -> None:
        """Drop images later than ``after_ns``.

        Earlier ones stay: another topic may have jumped before.
        """
        for kinds, queue in self._queues():
            kept = [item for item in queue if item.stamp_ns <= after_ns]
            lost = len(queue) - len(kept)
            self.ledger.drop("image that waited while time went backwards", kinds, lost)
            queue[:] = kept
        self._forget_paired()
        self._newest = {kind: stamp for kind, stamp in self._newest.items() if stamp <= after_ns}
        if self._last_match_ns is not None and self._last_match_ns > after_ns:
            self._last_match_ns = None

    # Colour and depth

    def _add_image(self, kind: str, stamp_ns: int, image: Any) -> list[Match]:
        self._see(kind, stamp_ns)
        queue = self._images[kind]
        if self._last_match_ns is not None and stamp_ns <= self._last_match_ns - to_ns(
            self.config.max_skew
        ):
            reason = f"{SAID[kind]} image that came after later ones had been used"
            self.ledger.drop(reason, (kind,))
            return []
        if holds(queue, stamp_ns) or stamp_ns in self._paired[kind]:
            self.ledger.drop(f"{SAID[kind]} image with the stamp of another one", (kind,))
            return []
        insort(queue, _Stamped(stamp_ns, image), key=STAMP)
        if len(queue) > self.config.queue:
            del queue[0]
            self.ledger.drop(self._unpaired(kind), (kind,))
        self._match_images()
        return self.complete()

    def _match_images(self, final: bool = False) -> None:
        """Pair the oldest colour and depth images as far as nothing can change it any more."""
        skew = to_ns(self.config.max_skew)
        queues = self._images
        while queues["color"] and queues["depth"]:
            early, late = sorted(queues, key=lambda kind: queues[kind][0].stamp_ns)
            gap = queues[late][0].stamp_ns - queues[early][0].stamp_ns
            if gap > 0:
                # A nearer partner of the late image can only be the early one's successor: wait
                # until that is known.
                successor = queues[early][1].stamp_ns if len(queues[early]) > 1 else None
                if gap > skew or (
                    successor is not None and abs(queues[late][0].stamp_ns - successor) < gap
                ):
                    del queues[early][0]
                    self.ledger.drop(self._unpaired(early), (early,))
                    continue
                if successor is None and not final:
                    return
            color, depth = queues["color"].pop(0), queues["depth"].pop(0)
            self._paired["color"].append(color.stamp_ns)
            self._paired["depth"].append(depth.stamp_ns)
            self._pairs.append(_Stamped(depth.stamp_ns, (color.data, depth.data)))
            if len(self._pairs) > self.config.queue:
                self._drop_pairs(1)

    def _forget_paired(self) -> None:
        for stamps in self._paired.values():
            stamps.clear()

    # Pose

    def complete(self) -> list[Match]:
        """Matches for every pair, oldest first, whose pose is decided."""
        matches: list[Match] = []
        while self._pairs:
            pair = self._pairs[0]
            color, depth = pair.data
            try:
                frame = camera_frame(color, depth)
                T = self.localizer.at(pair.stamp_ns, frame, self._camera)
            except NotYet as missing:
                self._missing = missing
                if max(self._newest.values()) <= pair.stamp_ns + to_ns(self.config.pose_wait):
                    break
                self._drop_pairs(1)
            except InputError as reason:
                self.ledger.drop(reason)
                del self._pairs[0]
            else:
                matches.append(Match(pair.stamp_ns, color, depth, T))
                self._last_match_ns = pair.stamp_ns
                del self._pairs[0]
        return matches

    # Counting

    def _drop_pairs(self, count: int) -> None:
        self.ledger.drop(self._missing, count=count)
        del self._pairs[:count]

    def _unpaired(self, kind: str) -> str:
        partner = "depth" if kind == "color" else "color"
        skew = f"{self.config.max_skew:g} s"
        return f"{SAID[kind]} image without a {SAID[partner]} image within {skew}"
