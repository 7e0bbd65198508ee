# SPDX-License-Identifier: Apache-2.0
"""examples/onnx_segmentation: a closed-set network in ONNX, mapped in space probability."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import eval3d_world as world
import numpy as np
import pytest
import torch
from conftest import ROOT

from radseg_ros.cli.map import main as radseg_map
from radseg_ros.cli.query import main as radseg_query
from radseg_ros.config import Config
from radseg_ros.datatypes import CheckpointError, ConfigError, LanguageError
from radseg_ros.encoders.protocol import Classifier, Encoder, make_encoder
from radseg_ros.mapper import Mapper

onnx = pytest.importorskip("onnx", reason="onnx, which writes the tiny network, is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it runs the network")

EXAMPLE = ROOT / "examples" / "onnx_segmentation"
COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0),
          "magenta": (1, 0, 1), "cyan": (0, 1, 1)}  # fmt: skip
CLASSES = [f"{name} wall" for name in COLORS]


def write_network(folder: Path) -> dict[str, str]:
    """A 1 x 1 convolution behind a mean over 4 px: the nearest colour wins."""
    from onnx import TensorProto, helper, numpy_helper

    known = np.array(list(COLORS.values()), np.float32)
    weight, bias = 20 * known[:, :, None, None], -10 * np.square(known).sum(1)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["small", "weight", "bias"], ["scores"]),
    ]
    sizes = {"image": [1, 3, "H", "W"], "scores": [1, len(known), "h", "w"]}
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()
    )
    weights = [
        numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in (("weight", weight), ("bias", bias))
    ]
    graph = helper.make_graph(nodes, "nearest color", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "net.onnx")
    (folder / "names.txt").write_text("\n".join(CLASSES) + "\n")
    return {
        "model": str(folder / "net.onnx"),
        "classes": str(folder / "names.txt"),
        "mean": "0,0,0",
        "std": "1,1,1",
    }


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """The example's module and its entry point, as pip would leave them."""
    place = tmp_path / "site"
    info = place / "onnx_segmentation-0.1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(EXAMPLE / "onnx_segmentation.py", place)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnx-segmentation\nVersion: 0.1\n")
    entry = next(
        line for line in (EXAMPLE / "pyproject.toml").read_text().splitlines() if "Encoder" in line
    )
    (info / "entry_points.txt").write_text(f"[radseg_ros.encoders]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "onnx_segmentation", raising=False)


def test_it_tells_the_probabilities_of_its_classes(tmp_path):
    encoder = make_encoder("onnx", **write_network(tmp_path))
    assert isinstance(encoder, Encoder) and isinstance(encoder, Classifier)
    rgb = np.zeros((8, 12, 3), np.uint8)
    rgb[:, :4, 0] = rgb[:, 4:8, 2] = rgb[:, 8:, 1] = 255
    found = encoder.probabilities(rgb, encoder.embed_labels(["blue wall", "red wall"]))
    assert found.shape == (2, 2, 3) and (found.sum(0) <= 1 + 1e-6).all()
    assert found[0, :, 1].min() > 0.99 > 0.01 > found[0, :, 0].max()
    everything = encoder.probabilities(rgb, encoder.embed_labels(CLASSES))
    assert torch.equal(everything, encoder.encode(rgb).data)
    assert (everything.sum(0) - 1).abs().max() < 1e-6


def test_other_maps_and_wrong_options_are_refused(tmp_path):
    options = write_network(tmp_path)
    encoder = make_encoder("onnx", **options)
    with pytest.raises(ConfigError, match="no map of space backbone: its classes are fixed"):
        Mapper(Config(), encoder)
    with pytest.raises(LanguageError, match="knows no 'sofa'"):
        encoder.embed_labels(["sofa"])
    with pytest.raises(ConfigError, match="unknown option onnx.modle; did you mean onnx.model"):
        make_encoder("onnx", modle="x")
    with pytest.raises(CheckpointError, match="names.txt cannot be read: damaged.*ONNX"):
        make_encoder("onnx", **{**options, "model": options["classes"]})
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(CheckpointError, match="names 2 classes"):
        make_encoder("onnx", **options).encode(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.slow
def test_its_map_answers(tmp_path, capsys):
    options = write_network(tmp_path)
    recording = world.write_folder(tmp_path / "room")
    path, labels = str(tmp_path / "room.radmap"), ["red wall", "green wall", "blue wall"]
    chosen = [w for key, value in options.items() for w in ("--encoder-option", f"{key}={value}")]
    space = ["--set", "map.space=probability", "--set", f"map.labels={','.join(labels)}"]
    size = ["--set", "map.voxel_size=0.1", "--set", "short_side=0"]
    command = [str(recording), "-o", path, "--encoder", "onnx", *chosen, *space, *size]
    assert radseg_map(command) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert radseg_query(["--map", path, "red wall", "--json"]) == 0, capsys.readouterr().err
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["found"] and answer["objects"][0]["score"] > 0.9
