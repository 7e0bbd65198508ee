# SPDX-License-Identifier: Apache-2.0
"""Files of radseg-onnx that are damaged, or say one thing and do another: refused at the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damage import altered, damaged
from test_engine import encoder_of, engine, image

from radseg_ros.datatypes import CheckpointError, ConfigError, RadsegRosError
from radseg_ros.encoders.engines.origin import KEY

pytestmark = pytest.mark.slow
assert engine  # a fixture


def side(part, axis: int, value: int | str) -> None:
    """Another length of an input or output, or a name in place of it."""
    length = part.type.tensor_type.shape.dim[axis]
    if isinstance(value, str):
        length.dim_param = value
    else:
        length.dim_value = value


GRAPHS = {
    "another input": lambda graph: setattr(graph.input[0], "name", "picture"),
    "a size that it was not made for": lambda graph: side(graph.input[0], 2, 96),
    "any size": lambda graph: side(graph.input[0], 3, "width"),
    "no images": lambda graph: graph.ClearField("input"),
    "more numbers than there are": lambda graph: side(graph.output[0], 1, 7),
    "no patches": lambda graph: side(graph.output[0], 2, 0),
    "a memory of patches": lambda graph: side(graph.output[0], 3, 2**40),
    "nothing": lambda graph: graph.ClearField("output"),
    "no step of its way": lambda graph: graph.ClearField("node"),
    "no weights": lambda graph: graph.ClearField("initializer"),
}


@pytest.mark.parametrize("how", GRAPHS)
def test_graphs_that_are_not_what_their_metadata_say(engine, tmp_path, how):
    import onnx

    model = onnx.load(engine)
    GRAPHS[how](model.graph)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((CheckpointError, ConfigError)) as error:
        encoder_of(str(tmp_path / "bad.onnx"))
    assert "bad.onnx" in str(error.value) and "\n" not in str(error.value)


def survives(path: Path) -> bool:
    """Whether a file is taken; if so it makes features of the right shape, or says why not."""
    try:
        encoder = encoder_of(str(path))
    except RadsegRosError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return False
    try:
        assert encoder.encode(image()).channels == encoder.channels
    except RuntimeError as error:  # of onnxruntime; the frame is counted
        assert type(error).__module__.startswith("onnxruntime")
    return True


def test_metadata_that_lie(engine, tmp_path):
    import onnx

    model = onnx.load(engine)
    (own,) = (each for each in model.metadata_props if each.key == KEY)
    origin = json.loads(own.value)
    taken = []
    for value in altered(origin, 60):
        own.value = json.dumps(value)
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        taken.append(survives(tmp_path / "bad.onnx"))
    assert not all(taken)


def test_files_that_suffered(engine, tmp_path):
    path = tmp_path / "bad.onnx"
    for data in damaged(Path(engine).read_bytes(), 40):
        path.write_bytes(data)
        survives(path)
