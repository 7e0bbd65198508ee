# SPDX-License-Identifier: Apache-2.0
"""Whether a device gives the same: against the authors' numbers, and against the CPU in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import gpu_kit  # isort: skip

import numpy as np  # isort: skip
import torch  # isort: skip
from torch.nn import functional as F  # isort: skip

from radseg_ros.config import Config, LiftConfig, MapConfig, QueryConfig
from radseg_ros.datatypes import FeatureMap, Frame
from radseg_ros.encoders.radseg.correlation import aggregate
from radseg_ros.encoders.radseg.encoder import RadsegEncoder
from radseg_ros.mapper import Mapper
from radseg_ros.segmentation.maps import label_map
from radseg_ros.segmentation.probabilities import probabilities
from radseg_ros.segmentation.refine import make_refiner
from radseg_ros.voxels.voxel_map import VoxelMap

GOLDEN_LIMIT, VECTOR_LIMIT = 5e-4, 1e-3  # in float32: of the authors' numbers, of maps' vectors
# what is encoded -> options, the image, the authors' features
FEATURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "RADIO as it is": ({"crop": 0, "scra": False, "scga": "off"}, "image", "plain_features"),
    "SCRA": ({"crop": 0, "scga": "off"}, "image", "scra_only"),
    "SCRA, SCGA": ({"crop": 0}, "image", "single_features"),
    "windows": ({"scga": "off"}, "image", "slide_before_scga"),
    "windows, SCGA": ({}, "image", "slide_features"),
    "denser windows, SCGA": ({"stride": 32}, "image", "slide_b_features"),
    "windows, SCGA, odd size": ({}, "odd_image", "odd_features"),
}
SETTINGS = {"crop": 96, "stride": 48}  # of the golden numbers


class Comparison:
    """The table of this part, and the goals of float32."""

    def __init__(self, bench: gpu_kit.Bench) -> None:
        self.bench = bench
        self.table = bench.table(
            what="s", type="s", against="s", largest_difference=".1e", least_cosine=".5f",
            equal_labels=".2%",
        )  # fmt: skip
        self.worst = 0.0  # in float32, from the authors' numbers

    def features(self, what: str, dtype: str, against: str, ours: Any, theirs: Any) -> None:
        """(C, h, w) or (N, C) vectors, and the labels that random texts give them."""
        a, b = (_rows(side) for side in (ours, theirs))
        texts = torch.randn(20, a.shape[1], generator=torch.Generator().manual_seed(0))
        same = (F.normalize(a) @ texts.T).argmax(1) == (F.normalize(b) @ texts.T).argmax(1)
        cosine = float(F.cosine_similarity(a, b).min())
        self.add(
            what, dtype, against, float((a - b).abs().max()), cosine, float(same.float().mean())
        )

    def add(
        self,
        what: str,
        dtype: str,
        against: str,
        difference: float,
        cosine: float | None = None,
        same: float | None = None,
    ) -> None:
        """One row."""
        self.table.row(
            what=what, type=dtype, against=against, largest_difference=difference,
            least_cosine=cosine, equal_labels=same,
        )  # fmt: skip
        if dtype == "float32" and against == "authors":
            self.worst = max(self.worst, difference)


def _rows(vectors: Any) -> torch.Tensor:
    rows = torch.as_tensor(vectors).float().cpu()
    return rows.flatten(1).T if rows.ndim == 3 else rows


def parity(bench: gpu_kit.Bench) -> None:
    """The part."""
    compare = Comparison(bench)
    golden = dict(np.load(gpu_kit.GOLDEN / "radseg_encoder.npz"))
    for dtype in ("float32", "float16", "bfloat16"):
        for what, (options, image, name) in FEATURES.items():
            with bench.attempt(f"{what}, {dtype}"):
                encoder = bench.encoder("tiny", dtype, **(SETTINGS | options))
                ours = encoder.encode(golden[image][0].transpose(1, 2, 0)).data
                compare.features(what, dtype, "authors", ours, golden[name][0])
        with bench.attempt(f"probabilities, {dtype}"):
            _probabilities(compare, bench.encoder("tiny", dtype, **SETTINGS), golden, dtype)
        with bench.attempt(f"RADSeg+, {dtype}"):
            _refined(compare, bench, golden, dtype)
    with bench.attempt("SCGA"):
        before = torch.as_tensor(golden["slide_before_scga"][0], device=bench.device)
        after = golden["slide_features"][0]
        compare.features("SCGA alone", "float32", "authors", aggregate(before, 10.0), after)
    bench.goal("float32 and the authors' numbers", compare.worst, GOLDEN_LIMIT, must=True)
    _maps(compare)
    _questions(compare, golden)
    _large(compare)


def _probabilities(
    compare: Comparison, encoder: RadsegEncoder, golden: dict[str, np.ndarray], dtype: str
) -> None:
    image = golden["image"][0].transpose(1, 2, 0)
    maps = probabilities(encoder, image, torch.from_numpy(golden["text_embeds"])).cpu()
    theirs = golden["prob_probs"][0, 1:]
    same = float((label_map(maps).numpy() == golden["prob_pred"][0, 0]).mean())
    difference = float(np.abs(maps.numpy() - theirs).max())
    compare.add("probabilities", dtype, "authors", difference, same=same)


def _refined(
    compare: Comparison, bench: gpu_kit.Bench, golden: dict[str, np.ndarray], dtype: str
) -> None:
    """Where a mask is taken in one and not in the other, probabilities have nothing in common: what
    differs is told of the features that SAM's decoder sees.
    """
    plus = np.load(gpu_kit.GOLDEN / "radseg_plus.npz")
    sam = {"refine": "sam", "refine_sam": str(gpu_kit.GOLDEN / "tiny_sam_hf")}
    options = SETTINGS | sam | {"refine_min_area": 60, "refine_iou": 0.6}
    encoder = bench.encoder("tiny", dtype, **_refinement(options))
    refiner = make_refiner(encoder)
    assert refiner is not None
    image = golden["image"][0].transpose(1, 2, 0)
    with torch.inference_mode():
        height, width = (int(side) for side in plus["sam_input_hw"])
        neck = refiner.sam.embed_image(refiner.features(image, (height, width))).cpu()
    vectors = torch.from_numpy(plus["neck"])[0].flatten(1).T
    refined = refiner(image, probabilities(encoder, image, golden["text_embeds"])).labels()
    same = float((refined.cpu().numpy() == plus["pred"][0, 0]).mean())
    difference = float((neck - vectors).abs().max())
    compare.add("RADSeg+", dtype, "authors", difference, same=same)


def _refinement(options: dict[str, Any]) -> dict[str, Any]:
    """Flat names of options -> those of the config's own group."""
    from radseg_ros.config import RefineConfig

    prefix = "refine_"
    inner = {k.removeprefix(prefix): v for k, v in options.items() if k.startswith(prefix)}
    outer = {k: v for k, v in options.items() if not k.startswith(prefix)}
    return outer | {"refinement": RefineConfig(**inner)}


# ---- maps ----------------------------------------------------------------------------------------


def golden_frames() -> Iterator[tuple[Frame, FeatureMap]]:
    """The five frames of the golden map, with their features."""
    with np.load(gpu_kit.GOLDEN / "voxel_map.npz") as golden:
        for i in range(len(golden["depth"])):
            rgb = golden["rgb"][i].transpose(1, 2, 0)
            frame = Frame(i, rgb, golden["depth"][i], golden["K"], golden["pose"][i])
            yield frame, FeatureMap(torch.tensor(golden["feat"][i]))


def _maps(compare: Comparison) -> None:
    """The golden map, and rooms of the real size on the device and on the CPU."""
    bench = compare.bench
    golden = np.load(gpu_kit.GOLDEN / "voxel_map.npz")
    size = float(golden["voxel_size"])
    theirs = _sorted(golden["voxel_index"], golden["voxel_hits"], golden["voxel_feat"])
    for dtype in ("float32", "float16"):
        with bench.attempt(f"golden map, {dtype}"):
            world = VoxelMap(
                24, MapConfig(voxel_size=size, dtype=dtype), LiftConfig(), bench.device
            )
            for frame, features in golden_frames():
                world.integrate(frame, FeatureMap(features.data.to(bench.device)))
            _same_map(compare, f"map, stored in {dtype}", dtype, "authors", _voxels(world), theirs)
    with bench.attempt("rooms"):
        _rooms(compare)


def _rooms(compare: Comparison) -> None:
    bench, made = compare.bench, []
    for device in (bench.device, torch.device("cpu")):
        world = VoxelMap(96, MapConfig(), LiftConfig(), device)
        for step in range(2 if bench.quick else 12):
            frame = bench.sizes[0].frame(step)
            shape = (96, *(side // 16 for side in frame.depth.shape))
            random = torch.Generator().manual_seed(step)
            world.integrate(frame, FeatureMap(torch.randn(shape, generator=random).to(device)))
        made.append(_voxels(world))
    _same_map(compare, f"map of a room, {bench.sizes[0]}", "float32", "CPU", *made)


Voxels = tuple[np.ndarray, np.ndarray, np.ndarray]  # (M,) keys ascending, (M,) hits, (M, C)


def _voxels(world: VoxelMap) -> Voxels:
    made = world.snapshot()
    index, hits, features = (side.cpu().numpy() for side in (made.index, made.hits, made.features))
    return _sorted(index, hits, features)


def _sorted(index: np.ndarray, hits: np.ndarray, features: np.ndarray) -> Voxels:
    x, y, z = (index.astype(np.int64) + (1 << 20)).T
    key = x << 42 | y << 21 | z
    order = key.argsort()
    return key[order], hits[order], features[order]


def _same_map(
    compare: Comparison, what: str, dtype: str, against: str, ours: Voxels, theirs: Voxels
) -> None:
    """Hits may differ where a point lies on the border of two voxels: vectors are compared where
    they agree, and how often that is stands under "equal labels".
    """
    _, a, b = np.intersect1d(ours[0], theirs[0], return_indices=True)
    equal = ours[1][a] == theirs[1][b]
    count = max(len(ours[0]), len(theirs[0]))
    left, right = (torch.from_numpy(side) for side in (ours[2][a][equal], theirs[2][b][equal]))
    difference, share = float((left - right).abs().max()), float(equal.sum()) / count
    cosine = float(F.cosine_similarity(left, right).min())
    compare.add(
        f"{what} (labels: voxels with equal hits)", dtype, against, difference, cosine, share
    )
    if dtype == "float32":
        bench = compare.bench
        bench.goal(f"{what}: vectors", difference, VECTOR_LIMIT, must=True)
        bench.goal(f"{what}: share of voxels with other hits", 1 - share, 1e-3, must=True)


# ---- questions -----------------------------------------------------------------------------------


def _questions(compare: Comparison, golden: dict[str, np.ndarray]) -> None:
    """The whole way from images to scores and objects, by the golden frames, against the CPU."""
    bench = compare.bench
    reference = _asked(bench, "cpu", "float32", golden)
    for dtype in ("float32", "float16", "bfloat16"):
        with bench.attempt(f"questions, {dtype}"):
            scores, objects = _asked(bench, str(bench.device), dtype, golden)
            key = sorted(scores.keys() & reference[0].keys())
            ours, theirs = (np.stack([side[k] for k in key]) for side in (scores, reference[0]))
            same = float((ours.argmax(1) == theirs.argmax(1)).mean())
            what = f"scores of {len(key)} voxels; {objects} objects, on the CPU {reference[1]}"
            compare.add(what, dtype, "CPU", float(np.abs(ours - theirs).max()), same=same)


def _asked(
    bench: gpu_kit.Bench, device: str, dtype: str, golden: dict[str, np.ndarray]
) -> tuple[dict[tuple[int, ...], np.ndarray], int]:
    """Voxel -> its scores, and how many objects were found."""
    encoder = bench.encoder("tiny", dtype, device=device, **SETTINGS)
    config = Config(short_side=0, query=QueryConfig(mode="cosine", threshold=0.2))
    mapper = Mapper(config, encoder)
    for frame, _ in golden_frames():
        mapper.integrate(dataclasses.replace(frame, rgb=_quiet(frame.rgb)))
    texts = gpu_kit.LABELS[: len(golden["text_embeds"])]
    result = mapper.query(texts, vectors=golden["text_embeds"])
    index = [tuple(row) for row in result.geometry.index.tolist()]
    found = sum(len(answer.objects) for answer in result.answers)
    return dict(zip(index, result.scores, strict=True)), found


def _quiet(rgb: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rgb.clip(0, 1).astype(np.float32))


# ---- the real size -------------------------------------------------------------------------------


def _large(compare: Comparison) -> None:
    """Networks of the real size with random weights, against the CPU in float32."""
    bench, size = compare.bench, compare.bench.sizes[0]
    rgb, model = size.frame(0).rgb, bench.models[0]
    exact, references = bench.encoder(model, "float32", "cpu"), {}
    for preset in ("fast", "balanced"):
        if bench.time_for(f"{model} {size} {preset} on the CPU", 0.0 if bench.quick else 10.0):
            references[preset] = bench.in_preset(exact, preset).encode(rgb).data
    for dtype in ("float32", "float16", "bfloat16"):
        with bench.attempt(f"{model} {size} {dtype}"):
            encoder = bench.encoder(model, dtype)
            for preset, reference in references.items():
                ours = bench.in_preset(encoder, preset).encode(rgb).data
                compare.features(f"{model} {size} {preset}", dtype, "CPU", ours, reference)
