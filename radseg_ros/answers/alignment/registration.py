# SPDX-License-Identifier: Apache-2.0
"""Where one map lies in the frame of another: registration on geometry and colour, or a refusal.

Many alignments are tried: none at all, those that corresponding surroundings suggest (RANSAC over
FPFH, Rusu et al. 2009, with colours beside them), and quarter turns of the best. Each is refined by
ICP and judged by what agrees in place, direction and colour. A wrong alignment spoils a map for
good, so whatever is in doubt is refused, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ...datatypes import InputError
from .surface import Surface, registration, thinned_alike

FEWEST_POINTS = 200  # of a thinned surface
MOST_POINTS = 10_000  # of one, where alignments are searched and judged
MOST_FINE_POINTS = 200_000  # where the one that was found is refined
CELL_VOXELS = 2.0  # width of the cubes that surfaces are thinned to
FEATURE_CELLS = 6.0  # radius of what a feature describes
COLOR_WEIGHT = (
    60.0  # of a mean colour beside the 33 numbers of FPFH, of which each third sums to 100
)
ROUNDS = 6  # of RANSAC; each goes on with the correspondences that those before did not explain
TRIALS = 20_000  # of one round
AGREE_CELLS = 1.0  # a point agrees with one that is so near,
AGREE_COLOR = 0.15  # whose colour differs by no more, the mean of the three channels in 0..1,
AGREE_ANGLE = 40.0  # degrees, and whose normal by no more
NEAR_CELLS = 4.0  # with something so near there should be one that agrees
# What is sure:
LEAST_OVERLAP = 0.2  # of the smaller map agrees
LEAST_AGREEMENT = 0.33  # of what has something near it agrees
RIVAL = 0.75  # of the points that agree in the best: no other alignment has more
LEAST_SPREAD = 0.02  # the least share of the normals' squares along any direction
MOST_TILT = 5.0  # degrees, of the vertical, where both maps have z up
SAME_CELLS, SAME_ANGLE = 2.0, 5.0  # alignments that differ by no more (degrees) are one


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """A sure alignment, and what speaks for it."""

    T: np.ndarray  # (4, 4) T_target_source, metres
    overlap: float  # share of the smaller map that agrees with the other one, 0..1
    agreement: float  # share that agrees of what has something of the other map near it, 0..1


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """An alignment, and the points of the source that agree, and that should."""

    T: np.ndarray
    agree: np.ndarray
    near: np.ndarray


def align(target: Surface, source: Surface, z_up: bool = False) -> Alignment:
    """Where ``source`` lies in the frame of ``target``.

    Args:
        target, source: all of two maps.
        z_up: both maps have z up, so that an alignment keeps it.

    Raises:
        InputError: no alignment is sure; says by which rule. Or the voxels differ in size.
        ConfigError: Open3D is not installed.
    """
    if target.spacing != source.spacing:
        raise InputError(f"voxels of {target.spacing:g} m and of {source.spacing:g} m")
    a, b = thinned_alike(target, source, CELL_VOXELS * target.spacing, MOST_POINTS)
    if (fewest := min(len(a), len(b))) < FEWEST_POINTS:
        raise InputError(
            f"too small: a map covers {fewest} cells of {a.spacing:.2g} m, {FEWEST_POINTS} are "
            f"needed"
        )
    best, *others = _search(a, b)
    if z_up and (tilt := _tilt(best.T)) > MOST_TILT:
        raise InputError(
            f"tilted: z is up in both maps, what fits best tips it by {tilt:.0f} degrees"
        )
    rivals = [other for other in others if not z_up or _tilt(other.T) <= MOST_TILT]
    _check(best, rivals, a, b)
    fine = thinned_alike(target, source, target.spacing, MOST_FINE_POINTS)
    T = _refined(best.T, *fine, (1.5,))
    if not _same(T, best.T, b):
        raise InputError("not settled: single voxels and larger parts fit in different places")
    sure = _judged(T, a, b)
    return Alignment(T, _overlap(sure, a, b), _agreement(sure))


def _search(a: Surface, b: Surface) -> list[_Fit]:
    """All different alignments that were found, the best first."""
    fits: list[_Fit] = []

    def tried(T: np.ndarray) -> None:
        T = _refined(T, a, b, (3.0, 1.5))
        if not any(_same(T, fit.T, b) for fit in fits):
            fits.append(_judged(T, a, b))
            fits.sort(key=lambda fit: -int(fit.agree.sum()))

    tried(np.eye(4))
    for T in _suggested(a, b):
        tried(T)
    for T in _quarter_turns(fits[0], a, b):
        tried(T)
    return fits


def _suggested(a: Surface, b: Surface) -> list[np.ndarray]:
    """Alignments of corresponding surroundings, each of those that the ones before left."""
    o3d = registration()
    r = o3d.pipelines.registration
    pairs = np.asarray(r.correspondences_from_features(_features(b), _features(a), True))
    found: list[np.ndarray] = []
    for seed in range(ROUNDS):
        if len(pairs) < 10:
            break
        o3d.utility.random.seed(seed)
        result = r.registration_ransac_based_on_correspondence(
            b.cloud,
            a.cloud,
            o3d.utility.Vector2iVector(pairs.astype(np.int32)),
            1.5 * a.spacing,
            r.TransformationEstimationPointToPoint(),
            3,
            [
                r.CorrespondenceCheckerBasedOnEdgeLength(0.9),
                r.CorrespondenceCheckerBasedOnDistance(1.5 * a.spacing),
            ],
            r.RANSACConvergenceCriteria(TRIALS, 0.999),
        )
        T = np.array(result.transformation)
        found.append(T)
        off = np.linalg.norm(_moved(T, b.xyz[pairs[:, 0]]) - a.xyz[pairs[:, 1]], axis=1)
        if (off < 3 * a.spacing).sum() < 3:
            break
        pairs = pairs[off >= 3 * a.spacing]
    return found


def _features(surface: Surface) -> Any:
    """FPFH of every point, with the mean colour around it."""
    o3d = registration()
    radius = FEATURE_CELLS * surface.spacing
    around = o3d.geometry.KDTreeSearchParamHybrid(radius, 100)
    features = o3d.pipelines.registration.compute_fpfh_feature(surface.cloud, around)
    tree = cKDTree(surface.xyz)
    _, rows = tree.query(surface.xyz, 30, distance_upper_bound=radius / 2)
    known = rows < len(surface)
    colors = np.vstack([surface.rgb, np.zeros(3)])[rows].sum(1) / known.sum(1)[:, None]
    features.data = np.vstack([features.data, COLOR_WEIGHT * colors.T])
    return features


def _quarter_turns(fit: _Fit, a: Surface, b: Surface) -> list[np.ndarray]:
    """The alignment, turned by quarters about the main directions of what agrees."""
    if not fit.agree.any():
        return []
    axes = np.linalg.eigh(_spread(fit, b))[1].T
    centre = _moved(fit.T, b.xyz[fit.agree]).mean(0)
    R = fit.T[:3, :3]
    turns = []
    for axis in axes:
        for quarter in (1, 2, 3):
            turn = np.eye(4)
            turn[:3, :3] = Rotation.from_rotvec(R @ axis * quarter * np.pi / 2).as_matrix()
            turn[:3, 3] = centre - turn[:3, :3] @ centre
            turns.append(turn @ fit.T)
    return turns


def _refined(T: np.ndarray, a: Surface, b: Surface, reaches: tuple[float, ...]) -> np.ndarray:
    """ICP from ``T`` on; ``reaches``: how far it looks, in spacings of ``a``, one step each."""
    r = registration().pipelines.registration
    for reach in reaches:
        distance = reach * a.spacing
        plane = r.TransformationEstimationPointToPlane()
        stop = r.ICPConvergenceCriteria(1e-6, 1e-6, 40)
        T = r.registration_icp(b.cloud, a.cloud, distance, T, plane, stop).transformation
    return np.array(T)


def _judged(T: np.ndarray, a: Surface, b: Surface) -> _Fit:
    off, rows = cKDTree(a.xyz).query(_moved(T, b.xyz))
    cosine = ((b.normals @ T[:3, :3].T) * a.normals[rows]).sum(1)
    color = np.abs(a.rgb[rows] - b.rgb).mean(1)
    alike = (color <= AGREE_COLOR) & (cosine >= np.cos(np.radians(AGREE_ANGLE)))
    agree = alike & (off <= AGREE_CELLS * a.spacing)
    return _Fit(T, agree, off <= NEAR_CELLS * a.spacing)


def _check(fit: _Fit, rivals: list[_Fit], a: Surface, b: Surface) -> None:
    """Raise InputError unless an alignment is sure."""
    overlap, agreement = _overlap(fit, a, b), _agreement(fit)
    least, middle, _ = np.linalg.eigvalsh(_spread(fit, b))
    share = max((int(rival.agree.sum()) for rival in rivals), default=0) / max(1, fit.agree.sum())
    if overlap < LEAST_OVERLAP:
        raise InputError(
            f"too little overlap: {overlap:.0%} of the smaller map fits the other one, "
            f"{LEAST_OVERLAP:.0%} are needed"
        )
    if least < LEAST_SPREAD:
        what = (
            "one way only, as a wall does" if middle < LEAST_SPREAD else "two ways, as corridors do"
        )
        raise InputError(f"too flat: what fits faces {what}, so the map could slide along it")
    if agreement < LEAST_AGREEMENT:
        raise InputError(
            f"too much disagrees: of what lies close to the other map {agreement:.0%} fits it in "
            f"place, direction and colour, {LEAST_AGREEMENT:.0%} are needed"
        )
    if share > RIVAL:
        raise InputError(
            f"ambiguous: another alignment fits {share:.0%} as well as the best, "
            f"at most {RIVAL:.0%} are sure"
        )


def _overlap(fit: _Fit, a: Surface, b: Surface) -> float:
    return min(1.0, float(fit.agree.sum()) / min(len(a), len(b)))


def _agreement(fit: _Fit) -> float:
    return float(fit.agree.sum()) / max(1, int(fit.near.sum()))


def _spread(fit: _Fit, b: Surface) -> np.ndarray:
    """(3, 3) mean square of the normals of what agrees: its eigenvalues sum to 1."""
    normals = b.normals[fit.agree]
    return normals.T @ normals / max(1, len(normals))


def _same(T: np.ndarray, other: np.ndarray, b: Surface) -> bool:
    """Whether two alignments are one: nowhere in the map do they differ much."""
    angle = np.degrees(Rotation.from_matrix(T[:3, :3] @ other[:3, :3].T).magnitude())
    middle = b.xyz.mean(0)[None]
    shift = np.linalg.norm(_moved(T, middle) - _moved(other, middle))
    return bool(angle <= SAME_ANGLE and shift <= SAME_CELLS * b.spacing)


def _tilt(T: np.ndarray) -> float:
    """Degrees between z before and after."""
    return float(np.degrees(np.arccos(np.clip(T[2, 2], -1, 1))))


def _moved(T: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    return xyz @ T[:3, :3].T + T[:3, 3]
