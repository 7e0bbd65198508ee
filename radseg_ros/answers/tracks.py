# SPDX-License-Identifier: Apache-2.0
"""The same thing from question to question: it keeps its id, and is missing once it is gone.

What a question finds is followed from then on. Each frame is compared with some voxels of each
thing: where the view goes on behind most of them, again and again, the thing is missing; where it
is hidden or out of the image, nothing is known. What the map still holds of a thing that has moved,
or that somebody has forgotten, lies in a grave: it is no evidence any more, frames that came later
are. What came later is told by the clock of the map, which only passes, and not by stamps.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..config import QueryConfig
from ..datatypes import Frame, InputError, MapGeometry, OrientedBox, SemanticObject, Viewpoint
from ..geometry import DeviceFrame
from .objects import find_groups, least_score, make_object, rows_of
from .packed import thinning_order

MAX_TRACKS = 1024  # things that are followed; tiny ones go first, then what was found longest ago
MAX_GRAVES = 64  # the oldest one goes
SAMPLES = 16  # voxels of a thing that frames are compared with: 16 384 points at most
LEAST = 8  # of them; of a smaller thing a frame says nothing
LOOKS = 2  # frames that must look through a thing, and none show it, before it is missing
IN_VIEW = 0.5  # share of the samples that a frame must show, or look through, to say anything
SEEN, THROUGH = 0.5, 0.65  # shares of those that say that it is there, and that it is not
SAME = 0.3  # share of the smaller of two boxes that they have in common if it is one thing
PART = 0.9  # share of a box that is in another one, if it is not found alone: a part of that thing
EVIDENCE = 0.5  # share of the voxels of a thing that newer frames must hit, and it is there again
AROUND = 0.2  # m around a thing that was moved, what is there tells whether its place was known
KNOWN = 0.2  # share of the voxels there that must be older than its absence
SIMILAR = 0.3, 0.1  # relative, m: how much the sides of a thing may differ after it was moved
BACKWARDS_NS = 1_000_000_000  # a step back by more begins another time, by less is a late frame

Shifts = Mapping[int, np.ndarray]  # stamp of a frame (ns) -> T_new_old, (4, 4); others stay
STAYS = np.eye(4)
DepthBeyond = Callable[[np.ndarray], np.ndarray]  # (N, 3) m -> (N,) m, see voxels.carving


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One object of a question."""

    thing: SemanticObject
    samples: np.ndarray  # (S, 3) m, centres of some of its voxels
    first_seen_ns: np.ndarray  # (n,)
    seen_at_ns: np.ndarray  # (n,) of the clock of the map

    @property
    def shown_at_ns(self) -> int:
        """When any of its voxels was hit last, by the clock of the map."""
        return int(self.seen_at_ns.max())

    def track(self, thing: SemanticObject, asked: int) -> _Track:
        """Follow it, as ``thing``, from the question of this number on."""
        return _Track(thing, self.samples, thing.last_seen_ns, self.shown_at_ns, asked)


@dataclass(slots=True, eq=False)
class _Track:
    """One thing that is followed."""

    thing: SemanticObject  # as it was found last
    samples: np.ndarray  # (S, 3) m, centres of some of its voxels
    seen_ns: int  # stamp of the last frame that is known to show it
    shown_at_ns: int  # of the clock of the map: the last of the voxels that were found last
    asked: int  # number of the question that found it last
    missing_at_ns: int = 0  # of the clock of the map, since when it is missing
    looks: int = 0  # frames that looked through it since then
    clearest: float = 0.0  # share of the samples that can be seen from the viewpoint
    clearest_ns: int = 0  # stamp of the frame that was taken there

    def take(self, found: _Found, asked: int) -> None:
        """It is what was found now."""
        if self.thing.missing_since_ns:
            self.is_back()
        known, self.asked, self.shown_at_ns = self.thing, asked, found.shown_at_ns
        self.thing = replace(found.thing, id=known.id, viewpoint=known.viewpoint)
        if not self.looks:  # what is perhaps gone is judged by all that it was
            self.samples = found.samples
            self.seen_ns = max(self.seen_ns, found.thing.last_seen_ns)

    def seen(self, frame: Frame | DeviceFrame, share: float) -> None:
        """A frame shows so much of it."""
        self.looks, self.seen_ns = 0, max(self.seen_ns, frame.stamp_ns)
        if share > self.clearest:
            self.clearest, self.clearest_ns = share, frame.stamp_ns
            viewpoint = _seen_from(frame.T_world_camera[:3, 3], self.thing.centre)
            self.thing = replace(self.thing, viewpoint=viewpoint)

    def move(self, shifts: Shifts) -> None:
        """It is where the last frame shows it that is known to; see :meth:`Tracks.move`."""
        known, since_ns = self.thing, self.thing.missing_since_ns
        shown, looked, viewed = (
            shifts.get(ns, STAYS) for ns in (self.seen_ns, since_ns, self.clearest_ns)
        )
        self.looks, self.samples = 0, _at(shown, self.samples)
        self.thing = _shifted(known, shown)
        if known.viewpoint is not None:
            place = _at(viewed, np.array(known.viewpoint.position))
            self.thing = replace(self.thing, viewpoint=_seen_from(place, self.thing.centre))
        apart = np.abs(_at(looked, np.array(known.centre)) - self.thing.centre)
        if since_ns and (apart > np.array(known.size) / 2).any():
            self.is_back()  # another place was looked through

    def looked_through(self, stamp_ns: int, now_ns: int) -> None:
        """A frame shows what is behind it."""
        self.looks += 1
        if self.looks >= LOOKS:
            self.missing_at_ns = now_ns
            self.thing = replace(self.thing, missing_since_ns=stamp_ns)

    def stays_missing(self, found: _Found) -> bool:
        """Whether it is missing, and this is no evidence that it came back."""
        if not self.thing.missing_since_ns:
            return False
        newer = np.count_nonzero(found.seen_at_ns > self.missing_at_ns)
        return int(newer) < _enough(self.thing)

    def left(self, found: _Found) -> bool:
        """Whether this is but a part of it that the map still holds, although it is missing."""
        apart = np.abs(np.subtract(found.thing.centre, self.thing.centre))
        return bool((apart <= np.array(self.thing.size) / 2).all()) and self.stays_missing(found)

    def is_back(self) -> None:
        """It is not missing, whatever frames have shown."""
        self.looks, self.thing = 0, replace(self.thing, missing_since_ns=0)


@dataclass(frozen=True, slots=True, eq=False)
class _Grave:
    """A place of which what was seen until some moment counts no more."""

    label: str  # for which text; empty = for all
    lowest: np.ndarray  # (3,) m
    highest: np.ndarray
    at_ns: int  # of the clock of the map
    enough: int  # voxels seen later that open it again, fewer are no object; 0 = each counts
    seen_ns: int = 0  # stamp of the last frame that is known to show the thing; 0 = it is a place

    def holds(self, xyz: np.ndarray) -> np.ndarray:
        """(..., 3) -> (...) bool."""
        return np.asarray(((xyz >= self.lowest) & (xyz <= self.highest)).all(-1))

    def is_opened_by(self, found: _Found) -> bool:
        """Whether what was seen later is a thing in its place."""
        return bool(self.enough) and self._is_about(found) and not self.keeps(found)

    def keeps(self, found: _Found) -> bool:
        """Whether what was seen later is too little to be a thing."""
        return self._is_about(found) and found.thing.voxels < self.enough

    def moved(self, shifts: Shifts) -> _Grave:
        """Where the thing was, as it is known now."""
        centre = (self.lowest + self.highest) / 2
        if not np.isfinite(centre).all():  # a box without end stays where it is
            return self
        by = _at(shifts.get(self.seen_ns, STAYS), centre) - centre
        return replace(self, lowest=self.lowest + by, highest=self.highest + by)

    def _is_about(self, found: _Found) -> bool:
        return bool(self.holds(np.array(found.thing.centre)))


class Tracks:
    """The things that questions have found. Thread safe.

    A thing belongs to the text that it answers. Ids begin at 1 and are given once, also if
    :meth:`anew` is called in between. They are not saved with a map.
    """

    def __init__(self, ids: Iterator[int] | None = None) -> None:
        self._lock = threading.Lock()  # held for milliseconds: a frame may wait for it
        self._ids = ids or itertools.count(1)
        self._questions = itertools.count(1)
        self._tracks: dict[int, _Track] = {}
        self._graves: list[_Grave] = []
        self._newest_ns = 0  # stamp of the last frame
        self._now_ns = 0  # of the clock of the map

    def anew(self) -> Tracks:
        """For another map: nothing is followed, and ids go on."""
        return Tracks(self._ids)

    # Frames

    def look(
        self, frame: Frame | DeviceFrame, beyond: DepthBeyond, margin: float, now_ns: int
    ) -> None:
        """Compare a frame with the things that are followed.

        Args:
            beyond: how far the view goes on behind points; NaN where the frame does not show it.
            margin: m that it must go on by until it counts as looking through them.
            now_ns: by the clock of the map, as :attr:`MapGeometry.seen_at_ns`.
        """
        with self._lock:
            self._now_ns = now_ns
            if frame.stamp_ns < self._newest_ns - BACKWARDS_NS:
                self._begin_time_anew()
            self._newest_ns = max(self._newest_ns, frame.stamp_ns)
            there = [t for t in self._tracks.values() if not t.thing.missing_since_ns]
            if not there:
                return
            apart = beyond(np.concatenate([track.samples for track in there]))
            counts = np.array([len(track.samples) for track in there])
            starts = np.cumsum(counts) - counts
            shown, passed = (
                np.add.reduceat(each.astype(np.int64), starts)
                for each in (np.abs(apart) <= margin, apart > margin)
            )
            for track, of, hit, through in zip(there, counts, shown, passed, strict=True):
                if of < LEAST or hit + through < IN_VIEW * of:
                    continue
                if hit >= SEEN * (hit + through):
                    track.seen(frame, float(hit / of))
                elif through >= THROUGH * (hit + through):
                    track.looked_through(frame.stamp_ns, now_ns)

    def move(self, shifts: Shifts) -> None:
        """Frames were elsewhere than was believed, and so is what they showed.

        A thing, and its grave, go with the last frame that is known to show it. That it is missing
        was not seen by a frame that looked through another place than where it is now.

        Args:
            shifts: of the frames that were elsewhere.
        """
        with self._lock:
            for track in self._tracks.values():
                track.move(shifts)
            self._graves = [grave.moved(shifts) for grave in self._graves]

    def _begin_time_anew(self) -> None:
        """Stamps do not tell any more what came before what."""
        self._newest_ns = 0
        for track in self._tracks.values():
            track.seen_ns = 0

    # Questions

    def follow(
        self,
        label: str,
        geometry: MapGeometry,
        scores: np.ndarray,
        rules: QueryConfig,
        whole: bool = True,
    ) -> tuple[SemanticObject, ...]:
        """The objects that answer a text, best first, and then those that are missing.

        Args:
            geometry: the M voxels of the map.
            scores: (M,) in 0..1.
            whole: these are all voxels of the map. Otherwise what is found may be parts of things:
                known ones have their ids, and nothing is learnt.
        """
        with self._lock:
            graves = [grave for grave in self._graves if grave.label in ("", label)]
            away = sum(bool(track.thing.missing_since_ns) for track in self._of(label))
        more = replace(rules, max_objects=rules.max_objects + away + len(graves))
        alive = _without(graves, geometry, scores, rules)
        found = [
            _describe(label, geometry, alive, rows, score)
            for rows, score in find_groups(geometry, alive, more)
        ]
        all_found = len(found) < more.max_objects
        things: list[SemanticObject] | None = None
        with self._lock:
            opened = [grave for grave in graves if any(map(grave.is_opened_by, found))]
            if whole and opened:
                self._graves = [grave for grave in self._graves if grave not in opened]
            else:
                found = [each for each in found if not any(g.keeps(each) for g in graves)]
                matches = _match(self._of(label), found)
                if whole:
                    things = self._learn(label, geometry, found, matches)
                    self._forget_parts(label, things if all_found else [])
                else:
                    things = _named(found, matches)
        if things is None:  # again, with all that was buried there
            return self.follow(label, geometry, scores, rules)
        there = [thing for thing in things if not thing.missing_since_ns]
        missing = [thing for thing in things if thing.missing_since_ns]
        return (*there[: rules.max_objects], *missing)

    def _of(self, label: str) -> list[_Track]:
        return [track for track in self._tracks.values() if track.thing.label == label]

    def _learn(
        self,
        label: str,
        geometry: MapGeometry,
        found: list[_Found],
        matches: dict[int, _Track],
    ) -> list[SemanticObject]:
        """What was found, and what is missing; from now on all of it is followed."""
        asked = next(self._questions)
        for i, track in matches.items():
            if not track.stays_missing(found[i]):
                track.take(found[i], asked)
        away = [track for track in self._of(label) if track.thing.missing_since_ns]
        left = {i for i, track in matches.items() if track in away}
        left |= {i for i, each in enumerate(found) if any(track.left(each) for track in away)}
        matches = {i: track for i, track in matches.items() if track not in away}
        there = {i: each for i, each in enumerate(found) if i in matches or i not in left}
        for i, track in _moved(there, away, geometry).items():
            self._bury(track, track.missing_at_ns)
            moved = replace(there[i].thing, id=track.thing.id)
            if i in matches:  # it was found before anybody looked where it had been
                del self._tracks[matches[i].thing.id]
            matches[i] = there[i].track(moved, asked)
            self._tracks[moved.id] = matches[i]
        for i in sorted(there.keys() - matches.keys()):
            thing = replace(there[i].thing, id=next(self._ids))
            matches[i] = there[i].track(thing, asked)
            self._tracks[thing.id] = matches[i]
        self._keep_most()
        missing = [t.thing for t in self._of(label) if t.thing.missing_since_ns]
        missing.sort(key=lambda thing: -thing.score)
        return [*(matches[i].thing for i in sorted(matches)), *missing]

    def _keep_most(self) -> None:
        """Follow no more than MAX_TRACKS things: noise makes many tiny ones, and soon others."""

        def worth(id: int) -> tuple[bool, int]:
            track = self._tracks[id]
            return len(track.samples) >= LEAST, track.asked

        if len(self._tracks) > MAX_TRACKS:
            for id in sorted(self._tracks, key=worth)[:-MAX_TRACKS]:
                del self._tracks[id]

    def _forget_parts(self, label: str, things: list[SemanticObject]) -> None:
        """Follow no longer what has grown together with one of ``things``."""
        known = {thing.id for thing in things}
        parts = [t.thing for t in self._of(label) if t.thing.id not in known]
        parts = [thing for thing in parts if not thing.missing_since_ns]
        if not parts or not things:
            return
        own = np.prod([thing.size for thing in parts], 1)
        inside = (_common(parts, things) >= PART * own[:, None]).any(1)
        for thing, gone in zip(parts, inside, strict=True):
            if gone:
                del self._tracks[thing.id]

    # Forgetting

    def forget(self, id: int) -> SemanticObject:
        """Follow a thing no more; what has been seen of it until now does not count any more.

        It is found again, with another id, when newer frames show enough of it.

        Returns:
            The thing as it was known.

        Raises:
            InputError: no thing of this id is followed.
        """
        with self._lock:
            track = self._tracks.pop(id, None)
            if track is None:
                raise InputError(f"no object has the id {id}: ids come with answers")
            self._bury(track, max(self._now_ns, track.shown_at_ns))
            return track.thing

    def clear_box(self, lowest: Sequence[float], highest: Sequence[float]) -> None:
        """Forget the things whose centres are in a box (m, borders included, inf is allowed).

        What has been seen in it until now does not count any more, also if it comes from a map
        that is added later.
        """
        with self._lock:
            box = _Grave("", np.array(lowest), np.array(highest), self._now_ns, 0)
            self._tracks = {
                id: track
                for id, track in self._tracks.items()
                if not box.holds(np.array(track.thing.centre))
            }
            self._dig(box)

    def _bury(self, track: _Track, at_ns: int) -> None:
        thing = track.thing
        centre, half = np.array(thing.centre), np.array(thing.size) / 2
        corners = centre - half, centre + half
        self._dig(_Grave(thing.label, *corners, at_ns, _enough(thing), track.seen_ns))

    def _dig(self, grave: _Grave) -> None:
        self._graves = [*self._graves, grave][-MAX_GRAVES:]


def _describe(
    label: str, geometry: MapGeometry, scores: np.ndarray, rows: np.ndarray, score: float
) -> _Found:
    """The object in some rows of a map."""
    index = rows_of(geometry.index, rows)
    # by the voxel alone, so that the same ones are taken again
    order = thinning_order(index)
    some = np.argpartition(order, SAMPLES)[:SAMPLES] if len(index) > SAMPLES else slice(None)
    return _Found(
        make_object(label, geometry, scores, rows, score),
        index[some] * geometry.voxel_size,
        rows_of(geometry.first_seen_ns, rows),
        rows_of(geometry.seen_at_ns, rows),
    )


def _match(tracks: list[_Track], found: list[_Found]) -> dict[int, _Track]:
    """Number in ``found`` -> what it is; the boxes that agree best first."""
    if not tracks or not found:
        return {}
    known, things = [track.thing for track in tracks], [each.thing for each in found]
    mine, theirs = (np.prod([thing.size for thing in of], 1) for of in (known, things))
    common = _common(known, things)
    pairs = np.argwhere(common >= SAME * np.minimum(mine[:, None], theirs))
    agreement = common / (mine[:, None] + theirs - common)
    pairs = pairs[np.argsort(-agreement[tuple(pairs.T)], kind="stable")]
    matches: dict[int, _Track] = {}
    taken: set[int] = set()
    for t, f in pairs.tolist():
        if t not in taken and f not in matches:
            matches[f] = tracks[t]
            taken.add(t)
    return matches


def _named(found: list[_Found], matches: dict[int, _Track]) -> list[SemanticObject]:
    """What was found, with what is known about it."""
    things = [matches[i].thing if i in matches else each.thing for i, each in enumerate(found)]
    return [
        replace(
            each.thing,
            id=known.id,
            missing_since_ns=known.missing_since_ns,
            viewpoint=known.viewpoint,
        )
        for each, known in zip(found, things, strict=True)
    ]


def _at(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 3) points, moved by (4, 4)."""
    return points @ T[:3, :3].T + T[:3, 3]


def _shifted(thing: SemanticObject, T: np.ndarray) -> SemanticObject:
    """The same thing elsewhere. Its sides stay: a correction turns it by little."""
    centre, peak, middle = (
        tuple(_at(T, np.array(point)).tolist())
        for point in (thing.centre, thing.peak, thing.box.centre)
    )
    yaw = thing.box.yaw + math.atan2(T[1, 0], T[0, 0])
    box = OrientedBox(middle, thing.box.size, (yaw + math.pi / 2) % math.pi - math.pi / 2)
    return replace(thing, centre=centre, peak=peak, box=box)


def _seen_from(place: np.ndarray, centre: Sequence[float]) -> Viewpoint:
    """From a place (3,), towards a thing."""
    x, y, z = place.tolist()
    return Viewpoint((x, y, z), math.atan2(centre[1] - y, centre[0] - x))


def _enough(thing: SemanticObject) -> int:
    """Voxels that are evidence of it."""
    return math.ceil(EVIDENCE * thing.voxels)


def _without(
    graves: list[_Grave], geometry: MapGeometry, scores: np.ndarray, rules: QueryConfig
) -> np.ndarray:
    """(M,) scores, in which what is buried is below any threshold."""
    if not graves:
        return scores
    rows = np.flatnonzero(scores >= least_score(rules, rules.threshold))  # in any case
    xyz = rows_of(geometry.index, rows) * geometry.voxel_size
    seen_at_ns = rows_of(geometry.seen_at_ns, rows)
    buried = np.zeros(len(rows), bool)
    for grave in graves:
        buried |= grave.holds(xyz) & (seen_at_ns <= grave.at_ns)
    scores = scores.copy()
    scores[rows[buried]] = -1
    return scores


def _common(some: list[SemanticObject], others: list[SemanticObject]) -> np.ndarray:
    """(A, B) volumes that the boxes have in common, m^3."""
    (a_low, a_high), (b_low, b_high) = _corners(some), _corners(others)
    sides = np.minimum(a_high[:, None], b_high) - np.maximum(a_low[:, None], b_low)
    return sides.clip(0).prod(2)


def _corners(things: list[SemanticObject]) -> tuple[np.ndarray, np.ndarray]:
    centre = np.array([thing.centre for thing in things])
    half = np.array([thing.size for thing in things]) / 2
    return centre - half, centre + half


def _moved(
    there: dict[int, _Found], missing: list[_Track], geometry: MapGeometry
) -> dict[int, _Track]:
    """Which of the things that are ``there`` are surely missing ones that were moved.

    Of similar size, first seen after the other one was seen last, at a place that was known by
    then; and nothing else can be meant.
    """
    pairs = [
        (i, track)
        for i, each in there.items()
        for track in missing
        if _similar(each.thing, track.thing)
        and np.median(each.first_seen_ns) > track.seen_ns
        and _known(geometry, each.thing, track.seen_ns)
    ]
    as_new = Counter(i for i, _ in pairs)
    as_old = Counter(track.thing.id for _, track in pairs)
    return {i: t for i, t in pairs if as_new[i] == as_old[t.thing.id] == 1}


def _known(geometry: MapGeometry, thing: SemanticObject, stamp_ns: int) -> bool:
    """Whether the surroundings of a thing had been seen by then: else it may be another one."""
    centre, half = np.array(thing.centre), np.array(thing.size) / 2 + AROUND
    lowest, highest = (
        torch.from_numpy(np.rint(corner / geometry.voxel_size)).long().to(geometry.index.device)
        for corner in (centre - half, centre + half)
    )
    near = ((geometry.index >= lowest) & (geometry.index <= highest)).all(1)
    older = near & (geometry.first_seen_ns <= stamp_ns)
    return bool(older.sum() >= KNOWN * near.sum())


def _similar(one: SemanticObject, other: SemanticObject) -> bool:
    """Whether two boxes may be those of one thing."""
    a, b = np.array(one.box.size), np.array(other.box.size)
    relative, least = SIMILAR
    return bool((np.abs(a - b) <= np.maximum(least, relative * np.maximum(a, b))).all())
