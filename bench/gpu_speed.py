# SPDX-License-Identifier: Apache-2.0
"""How fast a device is: stage by stage, whole frames, and in large maps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gpu_kit  # isort: skip

import floors  # isort: skip
import numpy as np  # isort: skip
import plain_messages  # isort: skip
import torch  # isort: skip

from radseg_ros.config import Config, MapConfig, NodeConfig, QueryConfig, SyncConfig
from radseg_ros.datatypes import FeatureMap, Frame
from radseg_ros.encoders.engines.graph import write_engine
from radseg_ros.encoders.image import image_on
from radseg_ros.encoders.radseg.correlation import aggregate, product_type
from radseg_ros.encoders.radseg.encoder import RadsegEncoder
from radseg_ros.encoders.windows import corners, resized
from radseg_ros.frames.decode import make_frame
from radseg_ros.geometry import DeviceFrame, frame_on
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper, Prepared

ENCODER_GOAL = 1.6  # times the floor: a single pass in half precision
FUSE_GOAL, FUSE_LEAST = 3.0, 2e-3  # times the floor, or s, whichever is larger
FRAMES_GOAL = 10.0  # frames a second, preset balanced, 640x864
TURN = 12  # frames of a room
GROWTH = (50_000, 500_000, 2_000_000)  # voxels
ALMOST = 0.15  # by how much of itself a time may grow that is called flat


Seen = tuple[Frame | DeviceFrame, FeatureMap]


def mapper_of(encoder: RadsegEncoder, size: gpu_kit.Size, **options: Any) -> Mapper:
    """A mapper of images of that size, which answers without everyday names."""
    side = min(size.height, size.width)
    query = QueryConfig(mode="relevancy")
    return Mapper(Config(short_side=side, map=MapConfig(**options), query=query), encoder)


# ---- stages --------------------------------------------------------------------------------------


def stages(bench: gpu_kit.Bench) -> None:
    """Time and memory of each stage, beside its floor."""
    print(f"copies: {bench.copy_rate / 1e9:.0f} GB/s read and written")
    _encoders(bench)
    _map_stages(bench)
    _images(bench)
    if not bench.quick:  # both take minutes
        _compiled(bench)
        _engine(bench)


def _encoder_table(bench: gpu_kit.Bench) -> gpu_kit.Table:
    return bench.table(
        network="s", size="s", preset="s", type="s", run="s", encode_ms=".2f", SCGA_ms=".2f",
        MiB=".0f", floor_ms=".2f", ratio=".2f", TFLOP_per_s=".1f", GEMM_TFLOP_per_s=".1f",
    )  # fmt: skip


def _encoders(bench: gpu_kit.Bench) -> None:
    table = _encoder_table(bench)
    for model in bench.models:
        for dtype in bench.types:
            what = f"{model} {dtype}"
            if not bench.time_for(what):
                continue
            with bench.attempt(what):
                encoder = bench.encoder(model, dtype)
                for preset in bench.windows:
                    bench.in_preset(encoder, preset)
                    for size in bench.sizes:
                        if bench.time_for(f"{what} {preset} {size}"):
                            _encode(bench, table, model, encoder, size, preset, "eager")


def _encode(
    bench: gpu_kit.Bench,
    table: gpu_kit.Table,
    model: str,
    encoder: RadsegEncoder,
    size: gpu_kit.Size,
    preset: str,
    run: str,
) -> None:
    """One row: encoding an image, beside what its products alone would take."""
    rgb = image_on(bench.device, size.frame(0).rgb)  # `resize` tells what bringing it takes
    features = encoder.encode(rgb).data
    took = bench.seconds(lambda: encoder.encode(rgb))
    kind = product_type(encoder.dtype, bench.device)
    scga = bench.seconds(lambda: aggregate(features, encoder.config.tau_scga, kind))
    memory = bench.mebibytes(lambda: encoder.encode(rgb))
    network = gpu_kit.NETWORKS[model]
    whole = resized((size.height, size.width), encoder.crop, encoder.stride, network.patch)
    images = len(corners(whole, encoder.crop, encoder.stride)) if encoder.crop else 1
    sides = (encoder.crop, encoder.crop) if encoder.crop else whole
    patches, total = (h * w // network.patch**2 for h, w in (sides, whole))
    tokens = images * (patches + network.prefix)
    limit = 0.1 if bench.quick else 1.0
    rate = floors.gemm_rate(network, tokens, encoder.dtype, bench.device, limit)
    flops = network.encode_flops(images, patches, total)
    dtype = str(encoder.dtype).removeprefix("torch.")
    table.row(
        network=model, size=str(size), preset=preset, type=dtype, run=run, encode_ms=1e3 * took,
        SCGA_ms=1e3 * scga, MiB=memory, floor_ms=1e3 * flops / rate, ratio=took * rate / flops,
        TFLOP_per_s=flops / took / 1e12, GEMM_TFLOP_per_s=rate / 1e12,
    )  # fmt: skip
    if preset == "fast" and dtype != "float32" and size is bench.sizes[0]:
        what = f"{model} {dtype} {run}, single pass: times its floor"
        bench.goal(what, took * rate / flops, ENCODER_GOAL)


def _compiled(bench: gpu_kit.Bench) -> None:
    """The fastest type, compiled: compiling takes long, so this comes last."""
    table, dtype, size = _encoder_table(bench), bench.types[0], bench.sizes[0]
    for model in bench.models:
        what = f"{model} {dtype} compiled"
        if not bench.time_for(what, 45.0):
            continue
        with bench.attempt(what):
            encoder = bench.encoder(model, dtype, compile=True)
            for preset in ("fast", "balanced"):
                if bench.time_for(f"{what} {preset}", 45.0):
                    bench.in_preset(encoder, preset)
                    _encode(bench, table, model, encoder, size, preset, "compiled")


def _engine(bench: gpu_kit.Bench) -> None:
    """Onnxruntime, where it is: on a GPU with its CUDA provider."""
    model, size, file = bench.models[0], bench.sizes[0], bench.folder / "radseg.onnx"
    dtype = "float16" if bench.device.type == "cuda" else "float32"
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # which the exporter of torch needs
    except ImportError as error:
        bench.leave_out(f"onnxruntime ({error})")
        return
    if bench.device.type == "cuda" and "CUDAExecutionProvider" not in (
        onnxruntime.get_available_providers()
    ):
        bench.leave_out("onnxruntime (it has no CUDA provider)")
        return
    if bench.time_for("onnxruntime", 120.0):
        with bench.attempt("onnxruntime"):
            write_engine(bench.encoder(model, dtype, crop=0), file, (size.height, size.width))
            run = {"engine": "onnxruntime", "engine_file": str(file)}
            encoder = bench.encoder(model, dtype, crop=0, **run)
            _encode(bench, _encoder_table(bench), model, encoder, size, "fast", "onnxruntime")


def _images(bench: gpu_kit.Bench) -> None:
    """What is done before the encoder: messages to arrays, arrays to the working size."""
    table = bench.table(camera="s", working_size="s", stage="s", ms=".2f")
    for size in bench.sizes:
        camera = "x".join(map(str, size.camera))
        for kind in ("raw", "compressed"):
            color, depth, info, pose = messages(size.seen(0), 1, kind == "compressed")
            took = bench.seconds(
                lambda c=color, d=depth, i=info: make_frame(1, c, d, i, np.eye(4))  # type: ignore
            )
            table.row(camera=camera, working_size=str(size), stage=f"decode, {kind}", ms=1e3 * took)
        frame = size.seen(0)
        took = bench.seconds(lambda f=frame, s=size: frame_on(bench.device, f, s.height))  # type: ignore
        table.row(camera=camera, working_size=str(size), stage="resize", ms=1e3 * took)


def _map_stages(bench: gpu_kit.Bench) -> None:
    """What is done after the encoder, in a map of one room."""
    table = bench.table(
        size="s", channels="d", voxels="d", stage="s", ms=".2f", MiB=".0f", floor_ms=".3f",
        ratio=".1f",
    )  # fmt: skip
    for model in bench.models:
        with bench.attempt(f"map of {model}"):
            encoder = bench.in_preset(bench.encoder(model, bench.types[0]), "fast")
            for size in bench.sizes:
                if bench.time_for(f"map of {model} at {size}"):
                    _map_of_size(bench, table, encoder, size)


def _map_of_size(
    bench: gpu_kit.Bench, table: gpu_kit.Table, encoder: RadsegEncoder, size: gpu_kit.Size
) -> None:
    mapper = mapper_of(encoder, size)
    seen = [mapper.see(size.seen(step)) for step in range(2 if bench.quick else TURN)]
    for one in seen:
        stats = mapper.fuse(mapper.lifted(*one))
    hw = seen[-1][1].data.shape[1:]
    floor = floors.map_update_bytes(
        size.height * size.width, hw[0] * hw[1], stats.voxels, encoder.channels
    )
    least = floor / bench.copy_rate
    row = {"size": str(size), "channels": encoder.channels, "voxels": len(mapper.map)}

    def measured(stage: str, work: Callable[[], object], **more: float) -> float:
        took, memory = bench.seconds(work), bench.mebibytes(work)
        ratio = {"ratio": took / more["floor"]} if "floor" in more else {}
        ms = {f"{name}_ms": 1e3 * value for name, value in more.items()}
        table.row(**row, stage=stage, ms=1e3 * took, MiB=memory, **ms, **ratio)
        return took

    turn = Turn(mapper, seen)
    measured("lift", turn.lift)
    took = measured("lift and fuse", turn.fuse, floor=least)
    bench.goal(
        f"{size} {encoder.channels}: lift and fuse, s", took, max(FUSE_GOAL * least, FUSE_LEAST)
    )
    for stage, seconds in questions(bench, turn).items():
        table.row(**row, stage=stage, ms=1e3 * seconds)


class Turn:
    """Frames at the working size that come round again and again."""

    def __init__(self, mapper: Mapper, seen: list[tuple[Frame | DeviceFrame, FeatureMap]]) -> None:
        self.mapper, self._seen, self._next = mapper, seen, 0

    def lift(self) -> Prepared:
        """The next one, ready for the map."""
        self._next += 1
        return self.mapper.lifted(*self._seen[self._next % len(self._seen)])

    def fuse(self) -> None:
        """The next one goes into the map."""
        self.mapper.fuse(self.lift())


def questions(bench: gpu_kit.Bench, turn: Turn) -> dict[str, float]:
    """Seconds of questions and clouds: all vectors anew, nothing new, after one frame."""
    mapper, labels = turn.mapper, gpu_kit.LABELS
    took: dict[str, float] = {}

    def ask() -> None:
        mapper.query(labels)

    step = -1

    def show() -> None:
        nonlocal step
        step = mapper.changes(step, labels).step

    for name, work in (("question", ask), ("cloud", show)):
        for _ in range(2):  # on a GPU the very first chooses kernels
            if took.get(f"{name}, first", 0.0) < gpu_kit.LONGEST:
                mapper.view.clear()
                step = -1
                took[f"{name}, first"] = bench.once(work)
        took[f"{name}, repeated"] = bench.seconds(work)
        after: list[float] = []
        while len(after) < bench.rounds and sum(after) < gpu_kit.LONGEST:
            turn.fuse()
            after.append(bench.once(work))
        took[f"{name}, after a frame"] = statistics.median(after)
    return took


# ---- frames --------------------------------------------------------------------------------------


def frames(bench: gpu_kit.Bench) -> None:
    """Frames a second, from the camera's images to the map."""
    table = bench.table(
        network="s", size="s", preset="s", type="s", way="s", frames="d", frames_per_s=".1f",
        ms=".1f",
    )  # fmt: skip
    for model in bench.models:
        for dtype in bench.types:
            if not bench.time_for(f"{model} {dtype}"):
                continue
            with bench.attempt(f"{model} {dtype}"):
                encoder = bench.encoder(model, dtype)
                for preset in ("balanced", "fast", "paper"):
                    bench.in_preset(encoder, preset)
                    for size in bench.sizes:
                        if bench.time_for(f"{model} {dtype} {preset} {size}"):
                            _frames(bench, table, (model, dtype, preset), encoder, size)


def _frames(
    bench: gpu_kit.Bench,
    table: gpu_kit.Table,
    names: tuple[str, str, str],
    encoder: RadsegEncoder,
    size: gpu_kit.Size,
) -> None:
    model, dtype, preset = names
    ways = {"Mapper.integrate": integrated, "messages to LiveMap": lived}
    for way, run in ways.items():
        mapper = mapper_of(encoder, size)
        count, seconds = run(bench, mapper, size)
        table.row(
            network=model, size=str(size), preset=preset, type=dtype, way=way, frames=count,
            frames_per_s=count / seconds, ms=1e3 * seconds / count,
        )  # fmt: skip
        if preset == "balanced" and size is bench.sizes[0]:
            what = f"{model} {dtype} {size} balanced, {way}: s between frames"
            bench.goal(what, seconds / count, 1 / FRAMES_GOAL)


def _enough(bench: gpu_kit.Bench, one: float) -> int:
    """Frames that take about two seconds, if one takes so long."""
    return 3 if bench.quick else int(min(4 * TURN, max(3, 2.0 / one)))


def integrated(bench: gpu_kit.Bench, mapper: Mapper, size: gpu_kit.Size) -> tuple[int, float]:
    """Frames and seconds, one after the other."""
    seen = [size.seen(step) for step in range(TURN)]
    for frame in seen[: bench.warm]:
        mapper.integrate(frame)
    count = _enough(bench, bench.once(lambda: mapper.integrate(seen[0])))
    return count, bench.once(lambda: [mapper.integrate(seen[i % TURN]) for i in range(count)])


def lived(bench: gpu_kit.Bench, mapper: Mapper, size: gpu_kit.Size) -> tuple[int, float]:
    """As a node has them: raw messages to a live map, two frames waiting at most."""
    live = LiveMap(
        Config(
            short_side=mapper.config.short_side,
            query=mapper.config.query,
            node=NodeConfig(backlog=4),
            sync=SyncConfig(),
        )
    )
    live.start(mapper)
    sent = [messages(size.seen(step), 0) for step in range(TURN)]
    at = 0

    def feed(count: int) -> None:
        nonlocal at
        for _ in range(count):
            at += 1
            stamp = plain_messages.head(100 * at)
            color, depth, info, pose = sent[at % TURN]
            for message in (color, depth, info, pose):
                message.header = stamp
            given = (("info", info), ("pose", pose), ("color", color), ("depth", depth))
            for kind, message in given:
                live.receive(kind, SimpleNamespace(**vars(message)))
            _wait_for(live, 1)
        _wait_for(live, 0)

    try:
        feed(bench.warm)
        count = _enough(bench, bench.once(lambda: feed(1)))
        before = live.status().integrated
        took = bench.once(lambda: feed(count))
        arrived = live.status().integrated - before
        if arrived != count:
            raise RuntimeError(f"{arrived} of {count} frames arrived: {live.status().drops}")
        return count, took
    finally:
        live.close(60)


def _wait_for(live: LiveMap, waiting: int) -> None:
    """Until at most so many frames are not in the map yet."""
    end = time.monotonic() + 120
    while live.status().waiting > waiting:
        if time.monotonic() > end:
            raise RuntimeError("the worker does not end")
        time.sleep(2e-4)


def messages(frame: Frame, ms: int, compressed: bool = False) -> tuple[Any, Any, Any, Any]:
    """Colour, depth in 16 bit, camera info and pose of a frame."""
    head = plain_messages.head(ms)
    depth16 = (frame.depth * 1000).round().clip(0, 65534).astype(np.uint16)
    if compressed:
        head12 = bytes(12)
        jpeg, png = (
            plain_messages.file_bytes(pixels, kind)
            for pixels, kind in ((frame.rgb, "JPEG"), (depth16, "PNG"))
        )
        color = SimpleNamespace(header=head, format="rgb8; jpeg compressed bgr8", data=jpeg)
        depth = SimpleNamespace(header=head, format="16UC1; compressedDepth png", data=head12 + png)
    else:
        color = plain_messages.raw_image(frame.rgb, "rgb8")
        depth = plain_messages.raw_image(depth16, "16UC1")
        color.header = depth.header = head
    height, width = frame.depth.shape
    info = SimpleNamespace(
        header=head, height=height, width=width, k=frame.K.ravel().tolist(), p=[0.0] * 12
    )
    return color, depth, info, SimpleNamespace(header=head, pose=_pose(frame.T_world_camera))


def _pose(T: np.ndarray) -> Any:
    """A turn about y and a shift, as geometry_msgs/Pose."""
    half = np.arctan2(T[0, 2], T[0, 0]) / 2
    x, y, z = T[:3, 3].tolist()
    return SimpleNamespace(
        position=SimpleNamespace(x=x, y=y, z=z),
        orientation=SimpleNamespace(x=0.0, y=float(np.sin(half)), z=0.0, w=float(np.cos(half))),
    )


# ---- growth --------------------------------------------------------------------------------------


def growth(bench: gpu_kit.Bench) -> None:
    """Frames, questions and clouds while the map grows, room by room."""
    table = bench.table(voxels="d", stage="s", ms=".2f", against_the_smallest=".2f", map_MiB=".0f")
    model, dtype, size = bench.models[0], bench.types[0], bench.sizes[0]
    mapper = mapper_of(bench.in_preset(bench.encoder(model, dtype), "fast"), size)
    network, random = gpu_kit.NETWORKS[model], torch.Generator().manual_seed(0)
    shape = (network.width, size.height // network.patch, size.width // network.patch)
    features = FeatureMap(torch.randn(shape, generator=random).to(bench.device))
    first: dict[str, float] = {}
    room, voxels = 0, 0
    for target in (2_000, 8_000) if bench.quick else GROWTH:
        expected = 2 * sum(first.values()) * target / max(voxels, 1) if first else 0.0
        if not bench.time_for(f"{target} voxels", expected):
            continue
        while len(mapper.map) < target:
            for step in range(1 if bench.quick else TURN):
                mapper.fuse(mapper.lifted(size.frame(step, room), features))
            room += 1
        took = _at_size(bench, mapper, size, features, room)
        room, voxels = room + 1, len(mapper.map)
        first = first or took
        for stage, seconds in took.items():
            table.row(
                voxels=voxels, stage=stage, ms=1e3 * seconds,
                against_the_smallest=seconds / first[stage], map_MiB=mapper.nbytes / 2**20,
            )  # fmt: skip
        if took is not first:
            what = f"a frame in a known room, {voxels} voxels: times the smallest map's"
            bench.goal(what, took["a frame, known room"] / first["a frame, known room"], 1 + ALMOST)


def _at_size(
    bench: gpu_kit.Bench, mapper: Mapper, size: gpu_kit.Size, features: FeatureMap, room: int
) -> dict[str, float]:
    """Seconds of each stage in the map as it is, to which one room is added."""
    known, new = (
        [(size.frame(step, where), features) for step in range(1 if bench.quick else TURN)]
        for where in (0, room)
    )
    turn = Turn(mapper, known)
    mapper.view.clear()  # questions of before keep nothing up to date meanwhile
    took = {"a frame, known room": bench.seconds(turn.fuse)}
    took["a frame, new room"] = statistics.median(
        bench.once(lambda one=one: mapper.fuse(mapper.lifted(*one)))  # type: ignore
        for one in new
    )
    return took | questions(bench, turn)
