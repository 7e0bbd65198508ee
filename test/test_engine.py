# SPDX-License-Identifier: Apache-2.0
"""radseg-onnx and radseg.engine: the same features as torch, and refusals of what does not fit."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import radio_files
import torch
from conftest import golden_file

from radseg_ros.cli.checkups import BAD, GOOD, radseg
from radseg_ros.cli.onnx import main as radseg_onnx
from radseg_ros.config import Config, RadsegConfig
from radseg_ros.datatypes import CheckpointError, ConfigError, InputError
from radseg_ros.encoders.engines import graph
from radseg_ros.encoders.engines.graph import Agreement, compare
from radseg_ros.encoders.engines.origin import command, difference, origin_of, read_origin
from radseg_ros.encoders.engines.session import Engine
from radseg_ros.encoders.protocol import make_encoder
from radseg_ros.encoders.radseg import correlation

TINY = golden_file("tiny_radio.pth.tar")
SIZE = (144, 208)  # of the golden image; seen at 192 x 240
WINDOWS = {"crop": 96, "stride": 48}
PARITY = 1e-4


def encoder_of(file: str = "", checkpoint: Path = TINY, **options):
    given = {"checkpoint": str(checkpoint), "device": "cpu", **WINDOWS}
    if file:
        given |= {"engine": "onnxruntime", "engine_file": file}
    return make_encoder("radseg", **given | options)


def image(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)


# What needs no onnxruntime


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"engine": "onnxruntime"}, "needs radseg.engine_file"),
        ({"engine": "tensorrt"}, "needs radseg.engine_file"),
        ({"engine_file": "a.onnx"}, "for radseg.engine onnxruntime and tensorrt, not torch"),
        ({"engine": "tensor_rt"}, "did you mean 'tensorrt'?"),
        ({"engine": "onnxruntime", "engine_file": "a.onnx", "compile": True}, "radseg.compile"),
        (
            {"engine": "tensorrt", "engine_file": "a", "attention": "resradio", "sfr": True},
            "radseg.sfr is for radseg.engine torch",
        ),
    ],
)
def test_options_that_contradict_each_other(options, told):
    with pytest.raises(ConfigError, match=told):
        RadsegConfig(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ""),
        ({"language": "clip"}, ""),  # features come before it
        ({"preset": "fast"}, "crop 336, not 0; stride 112, not none"),
        ({"crop": 320}, "crop 336, not 320"),
        ({"tau_scra": 5.0}, "tau_scra 10.0, not 5.0"),
        ({"scga": "off"}, "scga always, not off; tau_scga 10.0, not none"),
        ({"attention": "naradio"}, "attention scra, not naradio"),
    ],
)
def test_what_features_depend_on_must_be_the_same(options, told):
    made = origin_of(RadsegConfig(), "abc", "float32", (672, 896))
    wanted = origin_of(RadsegConfig(**options), "abc", "float32", (672, 896))
    found = difference(made, wanted)
    assert found.startswith(told) and bool(found) == bool(told)


def test_weights_types_and_format_must_be_the_same():
    config = RadsegConfig()
    made = origin_of(config, "abc", "float32", (672, 896))
    assert difference(made, origin_of(config, "abd", "float32", (672, 896))).startswith(
        "checkpoint"
    )
    assert difference(made, origin_of(config, "abc", "float16", (672, 896))).startswith("dtype")
    assert difference(made | {"format": 2}, made) == "format 2, not 1"
    assert not difference(made, origin_of(config, "abc", "float32", (480, 640)))  # told otherwise


@pytest.mark.parametrize(
    "told", ["", "[]", "3", "{}", '{"height": 1}', '{"height": 0, "width": 1}']
)
def test_metadata_of_others(told):
    with pytest.raises(CheckpointError, match=r"a\.onnx was not written by radseg-onnx"):
        read_origin(Path("a.onnx"), {"radseg_ros": told})


def test_agreement_of_known_answers():
    torchs = torch.zeros(2, 1, 100)
    torchs[0] = 2.0
    ours = torchs.clone()
    ours[1, 0, :3] = 0.2  # within the share that rounding may move
    assert compare(ours, torchs) == Agreement(0.0, pytest.approx(np.cos(np.arctan(0.1))))
    ours[1, 0, 3:6] = 0.2
    assert compare(ours, torchs).difference == pytest.approx(0.1)
    assert Agreement(5e-5, 0.9999).fits("float32") and Agreement(5e-3, 0.9999).fits("float16")
    assert not Agreement(5e-3, 0.9999).fits("float32")
    assert not Agreement(0.0, 0.9).fits("float16")


# What runs it


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> str:
    """A file of the tiny checkpoint, with windows and SCGA."""
    return written(tmp_path_factory.mktemp("engine") / "tiny.onnx", **WINDOWS)


def written(path: Path, *flags: str, checkpoint: Path = TINY, **options) -> str:
    """The file that radseg-onnx writes."""
    need_onnx()
    config = RadsegConfig(
        checkpoint=str(checkpoint), engine="onnxruntime", engine_file=str(path), **options
    )
    words = shlex.split(command(config, config.dtype, SIZE))
    assert words[0] == "radseg-onnx" and radseg_onnx([*words[1:], "--device", "cpu", *flags]) == 0
    return str(path)


def need_onnx() -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")


@pytest.mark.slow
def test_windows_scra_and_scga_are_those_of_the_authors(engine):
    with np.load(golden_file("radseg_encoder.npz")) as golden:
        rgb, features = golden["image"][0].transpose(1, 2, 0), golden["slide_features"][0]
    assert rgb.shape[:2] == SIZE
    ours = encoder_of(engine).encode(rgb).data
    assert ours.shape == features.shape and np.abs(ours.numpy() - features).max() <= PARITY


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"crop": 0},
        {"crop": 0, "recursions": 2, "tau_scra": 3.0, "scga": "off"},
        {"crop": 0, "attention": "plain"},
        {"crop": 0, "attention": "naradio"},
        {"attention": "proxy_dino", "scga": "always"},
        {"crop": 0, "attention": "resradio", "first_block": 1, "last_block": 1},
    ],
    ids=str,
)
def test_same_features_as_torch(tmp_path, options):
    checkpoint = radio_files.write_small(tmp_path / "small.pth.tar")
    options = WINDOWS | options
    file = written(tmp_path / "small.onnx", checkpoint=checkpoint, **options)
    torchs = encoder_of(checkpoint=checkpoint, **options)
    engine = encoder_of(file, checkpoint, **options)
    assert engine.name == torchs.name and engine.channels == torchs.channels
    for rgb in (image(), image().astype(np.float32) / 255):
        ours, theirs = engine.encode(rgb).data, torchs.encode(rgb).data
        assert ours.shape == theirs.shape and ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= PARITY


@pytest.mark.slow
def test_blocks_of_a_large_image(tmp_path, monkeypatch):
    monkeypatch.setitem(correlation.BLOCK_ELEMENTS, "cuda", 1 << 13)  # rows do not fit at once
    options = {"crop": 0, "scga": "always"}
    engine = encoder_of(written(tmp_path / "tiny.onnx", **options), **options)
    assert correlation.rows_at_once(117, torch.device("cuda")) == 70
    theirs = encoder_of(**options).encode(image()).data
    assert (engine.encode(image()).data - theirs).abs().max() <= PARITY


@pytest.mark.slow
def test_half_precision(tmp_path):
    options = WINDOWS | {"dtype": "float16"}
    engine = encoder_of(written(tmp_path / "half.onnx", **options), **options)
    ours, theirs = engine.encode(image()).data, encoder_of().encode(image()).data
    assert torch.cosine_similarity(ours, theirs, dim=0).min() > 0.999
    assert Path(engine.config.engine_file).stat().st_size < 0.6 * TINY.stat().st_size
    with pytest.raises(ConfigError, match="dtype float16, not float32"):
        encoder_of(engine.config.engine_file, dtype="float32")
    assert encoder_of(engine.config.engine_file).config.dtype == "auto"


@pytest.mark.slow
def test_int8(tmp_path, monkeypatch):
    options = {"crop": 0, "scga": "always"}
    file = written(tmp_path / "small.onnx", "--int8", **options)
    ours, theirs = encoder_of(file, **options), encoder_of(**options)
    cosines = torch.cosine_similarity(ours.encode(image()).data, theirs.encode(image()).data, 0)
    assert 0.99 < cosines.min() < 0.99999  # it is another arithmetic
    with pytest.raises(InputError, match=r"make another: radseg-onnx .* --int8$"):
        ours.encode(image((64, 64)))
    every = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: every)
    with pytest.raises(ConfigError, match="is in int8, which is for the CPU"):
        Engine(Path(file), torch.device("cuda"))


@pytest.mark.slow
def test_another_size_is_refused_with_the_command_for_it(engine, tmp_path):
    encoder = encoder_of(engine)
    features = encoder.encode(image())
    assert torch.equal(encoder.encode(image((192, 240))).data[:, :0], features.data[:, :0])
    with pytest.raises(InputError) as refused:
        encoder.encode(image((150, 300)))
    told = str(refused.value)
    assert told.startswith(f"images of 150 x 300 px are seen at 192 x 336, and {engine} was made")
    words = shlex.split(told.partition("make another: ")[2])
    assert words[1:3] == ["-o", engine]
    words[2] = str(tmp_path / "other.onnx")
    assert radseg_onnx([*words[1:], "--device", "cpu"]) == 0
    ours = encoder_of(words[2]).encode(image((150, 300))).data
    assert (ours - encoder_of().encode(image((150, 300))).data).abs().max() <= PARITY


@pytest.mark.slow
def test_files_that_do_not_fit(engine, tmp_path):
    with pytest.raises(ConfigError, match=r"stride 48, not 32; make another: radseg-onnx -o .*"):
        encoder_of(engine, stride=32)
    other = radio_files.write_small(tmp_path / "small.pth.tar")
    with pytest.raises(ConfigError, match=r"was made for checkpoint \w+, not \w+; make another"):
        encoder_of(engine, other)
    content = Path(engine).read_bytes()
    for name, data in {
        "half": content[: len(content) // 2],
        "text": b"no graph",
        "none": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"{name} cannot be read: damaged, truncated"):
            encoder_of(str(tmp_path / name))
    with pytest.raises(CheckpointError, match="No such file"):
        encoder_of(str(tmp_path / "absent.onnx"))


@pytest.mark.slow
def test_the_doctor_tries_it(engine):
    options = {"checkpoint": str(TINY), "engine": "onnxruntime", "device": "cpu", **WINDOWS}

    def state(file: str) -> str:
        config = Config(radseg=RadsegConfig(**options, engine_file=file))
        return next(each.state for each in radseg(config) if each.what == "radseg.engine")

    assert state(engine) == GOOD and state("/nowhere/a.onnx") == BAD


@pytest.mark.slow
def test_providers_that_are_not_here(engine):
    import onnxruntime

    have = onnxruntime.get_available_providers()
    cuda = torch.device("cuda")
    for provider, tensorrt in (("CUDA", False), ("Tensorrt", True)):
        if f"{provider}ExecutionProvider" not in have:
            with pytest.raises(
                ConfigError, match=f"has no {provider}ExecutionProvider, only .*CPU"
            ):
                Engine(Path(engine), cuda, tensorrt)
    with pytest.raises(ConfigError, match="Tensorrt.* does not run on cpu"):
        encoder_of(engine, engine="tensorrt")


@pytest.mark.slow
def test_a_graph_that_does_something_else_is_not_written(tmp_path, monkeypatch, capsys):
    need_onnx()
    monkeypatch.setattr(graph, "compare", lambda *features: Agreement(0.01, 0.99))
    arguments = ["-o", str(tmp_path / "a.onnx"), "--height", "96", "--width", "96"]
    arguments += ["--checkpoint", str(TINY), "--device", "cpu", "--set", "crop=0"]
    assert radseg_onnx(arguments) == 1
    assert "differ by 1.0e-02 of the largest, the worst cosine is 0.9900" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "dtype=bfloat16"], "float32 or float16, not bfloat16"),
        (["--int8", "--set", "dtype=float16"], "radseg.dtype in int8 is float32, not float16"),
        (["--encoder", "lite"], "only encoder radseg can be written"),
        (["--set", "attention=resradio", "--set", "sfr=on"], "only encoder radseg can be written"),
    ],
)
def test_what_cannot_be_written(tmp_path, capsys, options, told):
    arguments = ["-o", str(tmp_path / "a.onnx"), "--height", "96", "--width", "96"]
    if "lite" not in options:
        arguments += ["--checkpoint", str(TINY)]
    else:
        pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [lite] is not installed")
    assert radseg_onnx([*arguments, "--device", "cpu", *options]) == 1
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())
