# SPDX-License-Identifier: Apache-2.0
"""Folders of other people's weights: nothing in them runs, and damage is one sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import random_clip
import torch
from conftest import golden_file
from damage import altered, damaged

from radseg_ros.datatypes import CheckpointError, RadsegRosError
from radseg_ros.encoders.clip.towers.backbones import load_backbone
from radseg_ros.encoders.clip.towers.weights import load_weights
from radseg_ros.encoders.protocol import make_encoder

CLIP = golden_file("peers/tiny_clip_hf")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy that a test may harm."""
    return Path(shutil.copytree(CLIP, tmp_path / "clip"))


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_weights(str(folder), ("clip",), offline=True)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text
    return text


def changed(folder: Path, **values) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"].update(values)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_is_no_folder_is_refused(tmp_path):
    refused(tmp_path / "absent", "absent: no such folder, and no hub id")
    refused(tmp_path, "config.json: no such file")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "file: no such folder")
    with pytest.raises(CheckpointError, match="not in the Hugging Face cache.*offline forbids"):
        load_weights("nobody/nothing-of-this-name", ("clip",), offline=True)


def test_another_kind_of_model_is_refused():
    with pytest.raises(CheckpointError, match="tiny_dino_hf holds a vit model, not clip"):
        make_encoder("naclip", checkpoint=golden_file("peers/tiny_dino_hf"), device="cpu")
    with pytest.raises(CheckpointError, match="holds a clip model, not dinov2_with_registers"):
        make_encoder("talk2dino", checkpoint=CLIP, device="cpu")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"num_hidden_layers": 10**6}, "no tower has 1000000 blocks"),
        ({"num_hidden_layers": 13}, "the files hold"),
        ({"hidden_size": 10**6}, "the files hold"),
        ({"patch_size": 0}, "patches of 0"),
        ({"image_size": 10**9}, "in 1000000000 px"),
        ({"num_attention_heads": 5}, "cannot be read"),
        ({"hidden_act": "no such thing"}, "cannot be read"),
        ({"num_channels": 4}, "it takes 4 channels"),
    ],
)
def test_sizes_that_cannot_be_are_refused(folder, values, word):
    refused(changed(folder, **values), word)


def test_missing_and_infinite_weights_are_refused(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    gone = "vision_model.encoder.layers.3.mlp.fc1.weight"
    spare = {"spare": torch.zeros(tensors[gone].numel())}
    save_file({k: v for k, v in tensors.items() if k != gone} | spare, path)
    refused(folder, "it lacks", "fc1.weight")
    tensors[gone][0, 0] = float("nan")
    save_file(tensors, path)
    refused(folder, gone, "not finite")
    path.unlink()
    refused(folder, "neither model.safetensors nor pytorch_model.bin")


@pytest.mark.slow
def test_shards_and_files_of_torch_are_read(folder):
    from safetensors.torch import load_file, save_file

    whole = load_weights(str(folder), ("clip",)).model.state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    names = {key: f"model-{i % 2}.safetensors" for i, key in enumerate(keys)}
    for name in set(names.values()):
        save_file({key: tensors[key] for key in keys if names[key] == name}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: f"../../{n}" for key, n in names.items()}}))
    found = load_weights(str(folder), ("clip",)).model.state_dict()
    assert all(torch.equal(found[key], whole[key]) for key in whole), "never outside of the folder"
    (folder / "model-1.safetensors").unlink()
    refused(folder, "model-1.safetensors: no such file")
    for path in (index, folder / "model-0.safetensors"):
        path.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    found = load_weights(str(folder), ("clip",)).model.state_dict()
    assert all(torch.equal(found[key], whole[key]) for key in whole)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_folder_is_executed(folder, tmp_path):
    went_off = tmp_path / "went off"
    (folder / "modeling_evil.py").write_text(f"import os; os.mkdir({str(went_off)!r})")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_evil.X", "AutoModel": "modeling_evil.Y"}
    (folder / "config.json").write_text(json.dumps(config))
    load_weights(str(folder), ("clip",))
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(went_off), file)
    refused(folder, "pytorch_model.bin")
    torch.save({"x": Bomb(went_off)}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin")
    assert not went_off.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damage_is_one_sentence_or_no_damage(folder, name):
    path = folder / name
    data = path.read_bytes()
    for number, bad in enumerate(damaged(data, 60)):
        path.write_bytes(bad)
        try:
            load_weights(str(folder), ("clip",))
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, number


@pytest.mark.slow
def test_other_values_in_the_configuration(folder):
    path = folder / "config.json"
    good = json.loads(path.read_text())
    for number, bad in enumerate(altered(good, 150)):
        try:
            path.write_text(json.dumps(bad))
        except UnicodeEncodeError:
            continue
        try:
            encoder = make_encoder("naclip", checkpoint=folder, device="cpu", crop=0)
            encoder.encode(np.zeros((40, 40, 3), np.uint8))
        except RadsegRosError as error:
            assert "\n" not in str(error), number


@pytest.mark.slow
def test_the_projection_of_talk2dino_is_read_with_care(tmp_path):
    file, options = tmp_path / "p.pth", {"device": "cpu", "offline": True}
    options["checkpoint"] = golden_file("peers/tiny_dinov2_reg_hf")
    for content, word in (
        ({"linear_layer.weight": torch.zeros(4, 4)}, "cannot be read"),
        (Bomb(tmp_path / "went off"), "cannot be read"),
        (layers(32, 40), "leads to 40 numbers, DINOv2 gives 48"),
        (layers(32, 48, float("nan")), "not finite"),
    ):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=word):
            make_encoder("talk2dino", projection=file, **options)
    assert not (tmp_path / "went off").exists()
    with pytest.raises(RadsegRosError, match="talk2dino.projection names no file"):
        make_encoder("talk2dino", **options, text_tower=written(tmp_path)).embed_labels(["cat"])


def layers(given: int, gives: int, value: float = 0.1) -> dict[str, torch.Tensor]:
    return {
        "linear_layer.weight": torch.full((gives, given), value),
        "linear_layer.bias": torch.zeros(gives),
        "hidden_layers.0.weight": torch.eye(gives),
        "hidden_layers.0.bias": torch.zeros(gives),
    }


def written(tmp_path: Path) -> Path:
    return random_clip.write(tmp_path / "tower", projection=512)


@pytest.mark.slow
def test_a_whole_sam_will_do(tmp_path):
    """As it is published: the image encoder's weights are among those of the decoder."""
    import transformers

    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 128}
    vision = sizes | {"output_channels": 32, "mlp_dim": 96, "global_attn_indexes": [2]}
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    prompts = {"hidden_size": 32, "image_size": 128, "image_embedding_size": 8}
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    folder = random_clip.save(transformers.SamModel, config, tmp_path / "sam")
    model = transformers.SamModel.from_pretrained(folder).eval()
    seen = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = model.vision_encoder(seen).last_hidden_state
    found = load_backbone(str(folder), torch.device("cpu")).embedding(seen)
    assert (found - theirs).abs().max() < 1e-5


def test_weights_of_half_precision_become_float32(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({key: value.half() for key, value in load_file(path).items()}, path)
    changed(folder, dtype="float16")
    state = load_weights(str(folder), ("clip",)).model.state_dict()
    whole = load_weights(str(CLIP), ("clip",)).model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert all(torch.equal(state[key], whole[key].half().float()) for key in whole)
