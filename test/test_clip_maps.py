# SPDX-License-Identifier: Apache-2.0
"""The CLIP family in use: texts, maps, commands, the node; and encoders that packages bring."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import eval3d_world as world
import numpy as np
import pytest
import random_clip
import torch
from conftest import ROOT, require_ros
from torch.nn import functional as F

from eval3d.cli import main as eval3d
from radseg_ros.cli.map import main as radseg_map
from radseg_ros.cli.query import main as radseg_query
from radseg_ros.cli.text import main as radseg_text
from radseg_ros.config import Config, MapConfig
from radseg_ros.datatypes import ConfigError, LanguageError
from radseg_ros.encoders.protocol import encoder_options, make_encoder
from radseg_ros.language.templates import FEW_TEMPLATES, TEMPLATES
from radseg_ros.language.tower import TextTower
from radseg_ros.mapper import Mapper
from radseg_ros.segmentation.probabilities import Segmenter

SIZES = {"width": 32, "depth": 12, "heads": 2, "patch": 8, "side": 32, "projection": 16}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return random_clip.write(tmp_path_factory.mktemp("clip") / "tiny_clip", **SIZES)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return world.write_folder(tmp_path_factory.mktemp("world") / "room")


def encoder_of(name, folder, **options):
    return make_encoder(name, checkpoint=folder, device="cpu", **options)


# Texts


def test_texts_are_read_as_written_and_normalised_twice(folder):
    encoder = encoder_of("naclip", folder)
    tower = TextTower(str(folder))
    texts = [template.format(c="Wine.glass") for template in TEMPLATES]
    mean = F.normalize(tower.embed(texts).mean(0), dim=0)
    found = encoder.embed_labels(["Wine.glass"])[0]
    assert (found - mean).abs().max() < 1e-6 and abs(found.norm() - 1) < 1e-6
    assert (found - encoder.embed_labels(["wine glass"])[0]).abs().max() > 1e-3
    assert (found - encoder.embed_labels(["wine.glass"])[0]).abs().max() < 1e-6, "lower case"
    prompt = encoder.embed_prompts(["a Wine.glass."])[0]
    assert (prompt - tower.embed(["a Wine.glass."])[0]).abs().max() < 1e-6


@pytest.mark.slow
def test_talk2dino_takes_raw_vectors(folder, tmp_path):
    from conftest import golden_file

    file = tmp_path / "projection.pth"
    generator = torch.Generator().manual_seed(0)
    state = {
        "linear_layer.weight": torch.randn(48, 16, generator=generator),
        "linear_layer.bias": torch.randn(48, generator=generator),
        "hidden_layers.0.weight": torch.randn(48, 48, generator=generator),
        "hidden_layers.0.bias": torch.randn(48, generator=generator),
    }
    torch.save(state, file)
    encoder = encoder_of(
        "talk2dino", golden_file("peers/tiny_dinov2_reg_hf"), text_tower=folder, projection=file
    )
    raw = TextTower(str(folder)).raw([t.format(c="cat") for t in FEW_TEMPLATES]).mean(0)
    hidden = torch.tanh(state["linear_layer.weight"] @ raw + state["linear_layer.bias"])
    out = state["hidden_layers.0.weight"] @ hidden + state["hidden_layers.0.bias"]
    assert (encoder.embed_labels(["cat"])[0] - out / out.norm()).abs().max() < 1e-5


@pytest.mark.slow
def test_vectors_of_different_wordings_are_not_mixed(folder, tmp_path):
    files = {}
    for wording in ("radseg", "clip"):
        files[wording] = str(tmp_path / f"{wording}.npz")
        command = ["cat", "--tower", str(folder), "--wording", wording, "--out", files[wording]]
        assert radseg_text(command) == 0
    without = {"text_tower": tmp_path / "elsewhere" / folder.name, "offline": True}
    encoder = encoder_of("naclip", folder, text_embeddings=[files["clip"]], **without)
    there = encoder_of("naclip", folder).embed_labels(["cat"])
    assert (encoder.embed_labels(["cat"]) - there).abs().max() < 1e-6
    with pytest.raises(LanguageError, match="unknown label 'dog'"):
        encoder.embed_labels(["dog"])
    with pytest.raises(LanguageError, match="other templates or rules"):
        encoder_of("naclip", folder, text_embeddings=[files["radseg"]], **without)


@pytest.mark.slow
def test_a_class_of_several_names_is_its_best_one(folder):
    encoder = encoder_of("naclip", folder, crop=32, stride=16)
    rgb = np.random.default_rng(0).random((40, 56, 3)).astype(np.float32)
    classes = [["sofa", "couch"], ["lamp"], ["cup", "mug", "beaker"]]
    names = [name for group in classes for name in group]
    shares = encoder.probabilities(rgb, encoder.embed_labels(names))
    best = torch.stack([shares[:2].amax(0), shares[2], shares[3:].amax(0)])
    found = Segmenter(encoder, classes, denoise_threshold=0.0)(rgb)
    assert (found.probabilities - best).abs().max() < 1e-6 and shares.shape[1:] == (40, 56)


# Maps


def options_of(folder: Path, name: str) -> list[str]:
    flags = ["--encoder", name, "--checkpoint", str(folder), "--device", "cpu"]
    return [*flags, "--encoder-option", "crop=32", "--encoder-option", "stride=16"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["naclip", "scclip"])
def test_eval3d_runs_with_it(folder, recording, tmp_path, capsys, name):
    fast = ["--voxel-size", "0.1", "--set", "short_side=0", "--no-pictures"]
    out = ["--save-map", "--out", str(tmp_path / "out")]
    status = eval3d(["run", "--root", str(recording), *options_of(folder, name), *fast, *out])
    assert status == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "room" / "metrics.json").read_text())
    assert (
        found["provenance"]["encoder"].startswith(f"{name}-")
        and found["frames"]["used"] == world.FRAMES
    )
    assert 0 <= found["miou"] <= 1 and found["map_voxels"] > 1000
    capsys.readouterr()
    kept = str(tmp_path / "out" / "room" / "map.radmap")
    assert radseg_query(["--map", kept, "red wall", "--json"]) == 0, "its file names the encoder"


@pytest.mark.slow
def test_a_map_remembers_its_encoder(folder, recording, tmp_path, capsys):
    path = str(tmp_path / "room.radmap")
    size = ["--set", "map.voxel_size=0.1", "--set", "short_side=0"]
    command = [str(recording), "-o", path, *options_of(folder, "scclip"), *size]
    assert radseg_map(command) == 0, capsys.readouterr().err
    assert radseg_map([*command, "--resume"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert radseg_query(["--map", path, "red wall", "--json"]) == 0, capsys.readouterr().err
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["label"] == "red wall"
    elsewhere = ["--encoder-option", "device=nowhere"]
    assert radseg_query(["--map", path, "red wall", *elsewhere]) != 0
    assert "scclip.device" in capsys.readouterr().err


@pytest.mark.slow
def test_resclip_serves_maps_of_probabilities_only(folder):
    frame = world_frame()
    labels = ["red wall", "green wall", "sofa"]
    with pytest.raises(ConfigError, match="resclip-.* serves no map of space backbone.*labels"):
        Mapper(Config(short_side=0), encoder_of("resclip", folder, crop=32, stride=16))
    assert Mapper(Config(short_side=0), encoder_of("resclip", folder, sfr=False))
    config = Config(short_side=0, map=MapConfig(space="probability", labels=labels, voxel_size=0.1))
    encoder = encoder_of("resclip", folder, crop=32, stride=16)
    mapper = Mapper(config, encoder)
    mapper.integrate(frame)
    stored = mapper.map.snapshot().features
    assert stored.shape[1] == 3 and stored.min() >= 0 and stored.sum(1).max() <= 1 + 1e-4


def world_frame():
    from radseg_ros.datatypes import Frame

    rgb, depth, _ = world.render(world.pose_of(0))
    return Frame(0, rgb, depth, world.K, world.pose_of(0))


# Options


def test_options_by_name_reach_the_encoder(folder):
    texts = [f"checkpoint={folder}", "crop=40", "sigma=2.5", "device=cpu", "text_embeddings="]
    options = encoder_options(Config(encoder_options=texts), "naclip")
    encoder = make_encoder("naclip", **options)
    assert encoder.config.sigma == 2.5 and encoder.crop == 40 and encoder.stride == 40
    with pytest.raises(ConfigError, match="'crop' is not OPTION=VALUE"):
        encoder_options(Config(encoder_options=["crop"]), "naclip")
    with pytest.raises(ConfigError, match="those of radseg are radseg.crop"):
        encoder_options(Config(encoder_options=["crop=1"]), "radseg")
    assert encoder_options(Config(), "lite") == {"device": "auto", "sizes": [192.0, 320.0]}


# Packages that bring encoders


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package with entry points, as pip would leave it."""

    def write(code: str, **entries: str) -> None:
        (tmp_path / "brought.py").write_text(code)
        info = tmp_path / "brought-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[radseg_ros.encoders]", *lines, ""]))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "brought", raising=False)

    return write


BROUGHT = """
from color_encoder import ColorEncoder

class Mine(ColorEncoder):
    def __init__(self, **options):
        self.options = options

class Half:
    name = "half"

def broken(**options):
    raise RuntimeError("no licence")
"""


def test_a_package_brings_an_encoder(package):
    package(BROUGHT, mine="brought:Mine", half="brought:Half", broken="brought:broken", gone="no:X")
    assert make_encoder("mine", a="1").options == {"a": "1"}
    with pytest.raises(
        ConfigError, match=r"brought:Half makes no encoder: it lacks checkpoint_hash"
    ):
        make_encoder("half")
    with pytest.raises(ConfigError, match=r"encoder broken \(brought:broken\).*no licence"):
        make_encoder("broken")
    with pytest.raises(ConfigError, match="encoder gone.*cannot be made: No module named 'no'"):
        make_encoder("gone")
    with pytest.raises(ConfigError, match="textregion, mine, half, broken, gone"):
        make_encoder("none of these")


@pytest.mark.slow
def test_commands_know_what_a_package_brings(package, recording, tmp_path, capsys):
    package(BROUGHT, mine="brought:Mine")
    fast = ["--voxel-size", "0.1", "--set", "short_side=0", "--no-pictures"]
    command = ["run", "--root", str(recording), "--encoder", "mine", *fast]
    assert eval3d([*command, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "room" / "metrics.json").read_text())
    assert found["provenance"]["encoder"] == "test-colors" and found["miou"] > 0.75


# The node


@pytest.mark.slow
@pytest.mark.parametrize("name", ["naclip", "scclip"])
def test_the_node_maps_with_it(folder, recording, tmp_path, name):
    require_ros()
    from robot import NODE, Process, play, running_robot, wait_for

    options = f"[checkpoint={folder},crop=32,stride=16,device=cpu]"
    settings = [
        "-p",
        f"encoder:={name}",
        "-p",
        f"encoder_options:={options}",
        "-p",
        "short_side:=0",
    ]
    with running_robot() as robot:
        process = Process(
            *("-m", "radseg_ros.ros.mapper_node", "--ros-args", *settings),
            *("-p", "node.backlog:=50", "-p", "map.voxel_size:=0.1"),
            RADSEG_CACHE=str(tmp_path / "cache"),
        )
        try:
            process.said("ready")
            play(str(recording), "--rate", "5")
            wait_for(lambda: robot.integrated(NODE) == world.FRAMES, "all frames")
            (answer,) = robot.query("red wall").answers
            assert answer.label == "red wall"
        finally:
            code = process.stop()
        assert code == 0 and f"encoder '{name}-" in process.text, process.text


def test_the_example_is_a_package_of_its_own():
    text = (ROOT / "examples" / "onnx_segmentation" / "pyproject.toml").read_text()
    assert 'onnx = "onnx_segmentation:OnnxEncoder"' in text


@pytest.mark.slow
def test_images_are_segmented_with_it(folder, tmp_path, capsys):
    from PIL import Image

    from radseg_ros.cli.segment import main as radseg_segment

    rgb = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("sofa, couch\nlamp\n")
    command = [str(tmp_path / "a.png"), "--classes", str(tmp_path / "classes.txt")]
    command += ["--out", str(tmp_path / "out"), "--encoder", "naclip", "--checkpoint", str(folder)]
    more = ["--device", "cpu", "--encoder-option", "crop=32", "--set", "pamr=2", "--denoise", "0"]
    assert radseg_segment([*command, *more]) == 0, capsys.readouterr().err
    labels = np.array(Image.open(tmp_path / "out" / "a_labels.png"))
    assert labels.shape == (60, 80) and set(np.unique(labels)) <= {1, 2}
    assert radseg_segment([*command, "--set", "carp=32"]) != 0
    assert "unknown option naclip.carp; did you mean naclip.crop?" in capsys.readouterr().err
