# SPDX-License-Identifier: Apache-2.0
"""Your own segmentation network, in ONNX, as an encoder: its classes are mapped in space
``probability`` (docs/encoders.md).

    pip install ./examples/onnx_segmentation
    ros2 run radseg_ros radseg_mapping --ros-args -p encoder:=onnx \
        -p "encoder_options:=[model=cityscapes.onnx, classes=cityscapes.txt]" \
        -p map.space:=probability -p "map.labels:=[road, person, car]"

The network takes (1, 3, H, W) float32 images and gives (1, C, h, w) scores. ``classes`` names its C
classes, one a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from radseg_ros.config import Options, from_texts, option
from radseg_ros.datatypes import CheckpointError, ConfigError, FeatureMap, LanguageError
from radseg_ros.encoders.image import image_tensor
from radseg_ros.reading import border, read_text


@dataclass(frozen=True, slots=True)
class OnnxConfig(Options):
    """What the network is."""

    PREFIX: ClassVar[str] = "onnx."

    model: str = option("", "file of the network")
    classes: str = option("", "text file that names its classes, one a line, in their order")
    mean: list[float] = option([0.485, 0.456, 0.406], "of RGB in 0..1, which is subtracted")
    std: list[float] = option([0.229, 0.224, 0.225], "what the difference is divided by")


class OnnxEncoder:
    """A network with a fixed set of classes.

    Raises:
        CheckpointError: the network cannot be read, or has other inputs or outputs.
        ConfigError: an option does not exist, or cannot have this value.
    """

    language = ""
    sam = None
    coarse_head = False
    logit_scale = 1.0
    background: tuple[str, ...] = ("nothing of these",)
    labels_only = "its classes are fixed"
    device = torch.device("cpu")

    def __init__(self, **options: object) -> None:
        import onnxruntime

        self.config: OnnxConfig = from_texts(OnnxConfig, options, "onnx.")
        if not self.config.model or not self.config.classes:
            raise ConfigError("encoder onnx needs onnx.model and onnx.classes, two files")
        path = Path(self.config.model).expanduser()
        with border(path, "a network in ONNX", CheckpointError):
            content = path.read_bytes()
            self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            self._input = self.session.get_inputs()[0].name
        self.classes = [line for line in read_text(Path(self.config.classes)).split("\n") if line]
        self.channels = self.language_channels = len(self.classes)
        self.checkpoint_hash = hashlib.sha256(content).hexdigest()[:12]
        self.name = f"onnx-{self.checkpoint_hash}"

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) RGB -> (C, h, w) probabilities of the classes."""
        image = image_tensor(rgb, self.device)
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (self.config.mean, self.config.std))
        scores = self.session.run(None, {self._input: ((image - mean) / std)[None].numpy()})[0]
        if scores.ndim != 4 or scores.shape[1] != self.channels:
            raise CheckpointError(
                f"{self.config.model} gives {scores.shape}, {self.config.classes} names "
                f"{self.channels} classes"
            )
        return FeatureMap(torch.from_numpy(scores[0]).float().softmax(0))

    def probabilities(self, rgb: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
        """Those of the labels: with ``map.labels`` naming some of the classes, the rest of each
        pixel's probability belongs to none of them.
        """
        return torch.einsum("qc,chw->qhw", torch.as_tensor(vectors).float(), self.encode(rgb).data)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """The classes are the space of the texts."""
        return vectors

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of classes -> (Q, C), 1 at the class. A background text is at none."""
        unknown = [x for x in labels if x not in self.classes and x not in self.background]
        if unknown:
            raise LanguageError(
                f"the network knows no {unknown[0]!r}; it knows {', '.join(self.classes)}"
            )
        rows = [[float(label == name) for name in self.classes] for label in labels]
        return torch.tensor(rows).reshape(-1, self.channels)

    embed_prompts = embed_labels

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As ``embed_labels``: the network knows of no meanings."""
        return self.embed_labels(texts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """The classes among them."""
        return [label for label in labels if label in self.classes]
