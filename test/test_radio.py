# SPDX-License-Identifier: Apache-2.0
"""Every layout of a RADIO checkpoint gives the same network.

Everything else is refused with a message that helps.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import radio_files
import torch
from damage import altered, damaged
from torch import nn

from radseg_ros.datatypes import CheckpointError
from radseg_ros.encoders.protocol import make_encoder
from radseg_ros.encoders.radseg.backbone import build_radio
from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
from radseg_ros.encoders.radseg.heads import build_head
from radseg_ros.hub import find_radio

RGB = np.random.default_rng(0).random((64, 96, 3), np.float32)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return radio_files.write_small(tmp_path_factory.mktemp("radio") / "small.pth.tar")


def language(path, **options) -> np.ndarray:
    """What an encoder makes of RGB, in language space."""
    encoder = make_encoder(
        "radseg", checkpoint=str(path), crop=0, device="cpu", offline=True, **options
    )
    return encoder.project(encoder.encode(RGB).data.flatten(1).T).numpy()


def change_state(**changes):
    """A change of a checkpoint's tensors: key -> tensor, or None to drop it.

    Double underscores stand for dots.
    """

    def change(content):
        for key, value in changes.items():
            key = key.replace("__", ".")
            content["state_dict"].pop(key, None)
            if value is not None:
                content["state_dict"][key] = value

    return change


@pytest.mark.parametrize("layout", ["index", "ema", "module", "folder", "shards", "gamma"])
def test_every_layout_gives_the_same_vectors(small, tmp_path, layout):
    def rename(old: str, new: str):
        return lambda content: content.update(
            state_dict={re.sub(old, new, k): v for k, v in content["state_dict"].items()}
        )

    write = {
        "index": lambda: radio_files.rewrite(
            small, tmp_path / "a.pth.tar", radio_files.index_heads
        ),
        "ema": lambda: radio_files.rewrite(small, tmp_path / "a.pth.tar", radio_files.as_ema),
        "module": lambda: radio_files.rewrite(
            small, tmp_path / "a.pth.tar", rename("^", "module.")
        ),
        "gamma": lambda: radio_files.rewrite(
            small, tmp_path / "a.pth.tar", rename("grandma", "gamma")
        ),
        "folder": lambda: radio_files.as_folder(small, tmp_path / "hf"),
        "shards": lambda: radio_files.as_folder(small, tmp_path / "hf", shards=3),
    }
    np.testing.assert_array_equal(language(write[layout]()), language(small))


@pytest.mark.parametrize(("width", "depth", "heads"), [(48, 1, 3), (128, 3, 2), (80, 2, 1)])
def test_sizes_come_from_the_tensors(tmp_path, width, depth, heads):
    path = radio_files.write_small(
        tmp_path / "a.pth.tar", width=width, depth=depth, heads=heads, grid=12
    )
    config = build_radio(read_checkpoint(path)).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        width,
        depth,
        heads,
    )
    assert (config.max_img_size, config.num_cls_tokens, config.num_registers) == (192, 4, 4)
    assert config.summary_idxs == [0, 1, 2]
    assert language(path).shape == (24, 24)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "heads"), [(128, 2), (1152, 16), (1280, 16)])
def test_heads_follow_from_the_width_when_the_options_do_not_say(tmp_path, width, heads):
    path = radio_files.write_small(
        tmp_path / "a.pth.tar", width=width, depth=1, heads=1, grid=2, model_kwargs={}
    )
    assert build_radio(read_checkpoint(path)).config.num_attention_heads == heads


def test_odd_mlp_sizes_survive(small, tmp_path):
    """so400m has 4304 = 3.7361 x 1152; the ratio must not lose a row to rounding."""
    for rows in range(150, 200, 7):
        state = {f"base_model.blocks.{i}.mlp.fc1.weight": torch.randn(rows, 64) for i in range(2)}
        state |= {f"base_model.blocks.{i}.mlp.fc1.bias": torch.randn(rows) for i in range(2)}
        state |= {f"base_model.blocks.{i}.mlp.fc2.weight": torch.randn(64, rows) for i in range(2)}
        path = radio_files.rewrite(
            small, tmp_path / "a.pth.tar", lambda c, state=state: c["state_dict"].update(state)
        )
        build_radio(read_checkpoint(path))


def test_no_layer_scale_is_a_factor_of_one(small, tmp_path):
    ones = {
        f"base_model.blocks.{i}.{ls}.grandma": torch.ones(64)
        for i in range(2)
        for ls in ("ls1", "ls2")
    }
    with_ones = radio_files.rewrite(
        small, tmp_path / "a.pth.tar", lambda c: c["state_dict"].update(ones)
    )
    without = radio_files.rewrite(
        small, tmp_path / "b.pth.tar", lambda c: [c["state_dict"].pop(key) for key in ones]
    )
    np.testing.assert_array_equal(language(with_ones), language(without))


def test_half_precision_weights_are_computed_in_single(small, tmp_path):
    def halve(content):
        content["state_dict"] = {key: value.half() for key, value in content["state_dict"].items()}

    assert (
        np.abs(
            language(radio_files.rewrite(small, tmp_path / "a.pth.tar", halve)) - language(small)
        ).max()
        < 0.05
    )


def test_version_1_heads():
    torch.manual_seed(0)
    slow = nn.Sequential(
        nn.Linear(6, 5),
        nn.LayerNorm(5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.LayerNorm(5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.LayerNorm(5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    names = {
        "0": "fc1",
        "1": "norm",
        "3": "inner.0",
        "4": "inner.1",
        "6": "inner.3",
        "7": "inner.4",
        "9": "fc2",
    }
    state = {
        names[key.split(".")[0]] + "." + key.split(".")[1]: value
        for key, value in slow.state_dict().items()
    }
    x = torch.randn(4, 6)
    torch.testing.assert_close(build_head(state, "here")(x), slow(x))


def test_version_2_heads():
    torch.manual_seed(0)
    state = {"fc1.weight": torch.randn(5, 6), "fc1.bias": torch.randn(5)}
    for name, size in (("blocks.0", 5), ("blocks.1", 5), ("final", 3)):
        state |= {f"{name}.0.weight": torch.randn(5), f"{name}.0.bias": torch.randn(5)}
        state |= {f"{name}.2.weight": torch.randn(size, 5), f"{name}.2.bias": torch.randn(size)}
    x = torch.randn(4, 6)

    def half(y, name):
        y = nn.functional.gelu(
            nn.functional.layer_norm(y, (5,), state[f"{name}.0.weight"], state[f"{name}.0.bias"])
        )
        return y @ state[f"{name}.2.weight"].T + state[f"{name}.2.bias"]

    y = x @ state["fc1.weight"].T + state["fc1.bias"]
    for name in ("blocks.0", "blocks.1"):
        y = y + half(y, name)
    torch.testing.assert_close(build_head(state, "here")(x), half(y, "final"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            change_state(base_model__blocks__1__attn__proj__weight=None),
            ["a.pth.tar", "encoder.layer.1.attention.o_proj.weight"],
        ),
        (
            change_state(base_model__blocks__0__norm1__bias=torch.zeros(7)),
            ["a.pth.tar", "norm1.bias", "(7,)", "(64,)"],
        ),
        (change_state(base_model__patch_generator__pos_embed=None), ["a.pth.tar", "pos_embed"]),
        (
            change_state(base_model__blocks__0__mlp__w12__weight=torch.zeros(3)),
            ["a.pth.tar", "w12", "lacks"],
        ),
        (
            change_state(_feature_normalizer__mean=torch.zeros(64)),
            ["a.pth.tar", "_feature_normalizer"],
        ),
        (
            change_state(**{"_heads__siglip2__fc1__weight": None}),
            ["a.pth.tar", "siglip2", "fc1.weight"],
        ),
        (
            change_state(_heads__siglip2__final__0__weight=torch.zeros(3)),
            ["a.pth.tar", "siglip2", "final.0.weight"],
        ),
        (lambda c: setattr(c["args"], "spectral_reparam", True), ["a.pth.tar", "spectral"]),
        (lambda c: setattr(c["args"], "model_norm", True), ["a.pth.tar", "model_norm"]),
        (lambda c: c.pop("state_dict"), ["a.pth.tar", "state_dict"]),
        (
            lambda c: c.update(state_dict={"weight": torch.zeros(1)}),
            ["a.pth.tar", "backbone", "weight"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(small, tmp_path, change, words):
    path = radio_files.rewrite(small, tmp_path / "a.pth.tar", change)
    with pytest.raises(CheckpointError) as caught:
        language(path)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_truncated_files(small, tmp_path, keep):
    content = small.read_bytes()
    path = tmp_path / "cut.pth.tar"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="cut.pth.tar.*damaged, truncated"):
        read_checkpoint(path)


def test_damaged_folders(small, tmp_path):
    folder = radio_files.as_folder(small, tmp_path / "hf")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="model.safetensors.*truncated"):
        read_checkpoint(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="model.safetensors.*no such file"):
        read_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json"):
        read_checkpoint(folder)


def use(path: Path, number: int = 0) -> torch.Tensor:
    """Make an encoder of a checkpoint and let it look at an image."""
    refine = "sam" if number % 3 == 0 else "off"
    options = {"crop": 32, "stride": 16, "device": "cpu", "offline": True, "refine": refine}
    encoder = make_encoder("radseg", checkpoint=str(path), **options)
    features = encoder.encode(np.full((32, 48, 3), 99, np.uint8)).data
    return encoder.project(features.flatten(1).T)


def used_or_refused(path: Path, number: int) -> bool:
    """Whether a checkpoint could be used; if not, one sentence must have said why."""
    try:
        use(path, number)
    except CheckpointError as error:
        assert str(path.parent) in str(error) and "\n" not in str(error)
        return False
    return True


def odd_tensors(value: torch.Tensor) -> list[object]:
    """What may stand where a tensor should."""
    shapes = [value.flatten(), value[None], value[:0], torch.zeros(()), torch.zeros(1).expand(9, 9)]
    types = [value.int(), value.bool(), value.to(torch.complex64), value.double(), value.bfloat16()]
    return [*shapes, *types, value * float("nan"), value.to_sparse(), "x", None, 7, [value]]


@pytest.mark.slow
def test_odd_tensors_are_refused_or_used(small, tmp_path):
    rng, path = random.Random(0), tmp_path / "odd.pth.tar"
    good = radio_files.load(small)
    used = 0
    for number in range(60):
        state = dict(good["state_dict"])
        key = rng.choice(list(state))
        state[key] = rng.choice(odd_tensors(state[key]))
        torch.save({**good, "state_dict": state}, path)
        used += used_or_refused(path, number)
    assert 0 < used < 40


@pytest.mark.parametrize(
    "key",
    [
        *("base_model.blocks.999999999.x", "base_model.blocks.-1.x", "base_model.blocks.one.x"),
        *("base_model.blocks.7.norm1.weight", "base_model.blocks", "base_model.", 5, ""),
        *("_heads.siglip2.blocks.1.2.weight", "_heads..x", "_heads.99.fc1.weight"),
    ],
)
def test_keys_that_cannot_be_are_refused_at_once(small, tmp_path, key):
    content = radio_files.load(small)
    content["state_dict"][key] = torch.zeros(3)
    torch.save(content, tmp_path / "odd.pth.tar")
    used_or_refused(tmp_path / "odd.pth.tar", 1)


@pytest.mark.slow
def test_training_options_of_other_types_are_refused_or_used(small, tmp_path):
    path, good = tmp_path / "odd.pth.tar", radio_files.load(small)
    used = 0
    for number, args in enumerate(altered(vars(good["args"]), 60)):
        options = {str(k): v for k, v in args.items()} if isinstance(args, dict) else {"x": args}
        torch.save({**good, "args": argparse.Namespace(**options)}, path)
        used += used_or_refused(path, number)
    assert 0 < used < 60


@pytest.mark.slow
def test_contents_of_other_types_are_refused_or_used(small, tmp_path):
    path, good = tmp_path / "odd.pth.tar", radio_files.load(small)
    content = {**good, "args": vars(good["args"])}
    for number, other in enumerate(altered(content, 40)):
        torch.save(other, path)
        used_or_refused(path, number)


@pytest.mark.slow
def test_json_of_folders_is_refused_or_used(small, tmp_path):
    folder = radio_files.as_folder(small, tmp_path / "hf", shards=2)
    for name in ("config.json", "model.safetensors.index.json"):
        good = (folder / name).read_text()
        texts = [json.dumps(value) for value in altered(json.loads(good), 30)]
        marked = "\ufeff" + good
        for number, text in enumerate([marked, good[:-9], "[]", "null", "", *texts]):
            (folder / name).write_text(text)
            assert used_or_refused(folder, number) or text != marked
        (folder / name).write_text(good)


def test_an_index_does_not_lead_out_of_its_folder(small, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = radio_files.as_folder(small, tmp_path / "hf")
    state = load_file(folder / "model.safetensors")
    save_file(state, tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(state, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="hf/elsewhere.safetensors: no such file"):
        read_checkpoint(folder)


@pytest.mark.slow
def test_damaged_bytes_are_refused_or_used(small, tmp_path):
    folder = radio_files.as_folder(small, tmp_path / "hf")
    for source, path in (
        (small, tmp_path / "damaged.pth.tar"),
        (folder / "model.safetensors", folder / "model.safetensors"),
    ):
        for number, data in enumerate(damaged(source.read_bytes(), 30)):
            path.write_bytes(data)
            used_or_refused(path.parent if path.suffix == ".safetensors" else path, number)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(small, tmp_path, value):
    def change(content):
        content["state_dict"]["base_model.blocks.1.norm1.weight"][3] = value

    path = radio_files.rewrite(small, tmp_path / "a.pth.tar", change)
    with pytest.raises(CheckpointError, match="blocks.1.norm1.weight holds numbers that are not"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x" * 5000, "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("nul\0byte.pth.tar", "no such file or folder"),
        ("~nobody-of-this-name/x.pth.tar", "cannot be read"),
        ("", "no such file|holds no|config.json"),
    ],
)
def test_names_of_checkpoints_that_cannot_be(name, told):
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(find_radio(name, offline=True))


class Evil:
    """Runs code when it is unpickled the ordinary way."""

    def __init__(self, victim: str) -> None:
        self.victim = victim

    def __reduce__(self):
        return (Path.touch, (Path(self.victim),))


def test_nothing_in_a_checkpoint_is_executed(small, tmp_path):
    victim = tmp_path / "victim"
    torch.save(
        {"state_dict": {}, "args": argparse.Namespace(x=Evil(str(victim)))},
        tmp_path / "evil.pth.tar",
    )
    (tmp_path / "plain.pth.tar").write_bytes(pickle.dumps({"state_dict": Evil(str(victim))}))
    for name in ("evil.pth.tar", "plain.pth.tar"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    assert not victim.exists()


def test_training_options_may_be_numbers_of_numpy(small, tmp_path):
    def write(**options):
        change = lambda content: vars(content["args"]).update(options)  # noqa: E731
        return radio_files.rewrite(small, tmp_path / "odd.pth.tar", change)

    numbers = {"lr": np.float64(0.1), "mean": np.ones(3, np.float32), "seed": np.int64(7)}
    np.testing.assert_array_equal(language(write(**numbers)), language(small))
    with pytest.raises(CheckpointError, match="odd.pth.tar holds pathlib.*Path, which could run"):
        read_checkpoint(write(odd=Path("/data")))
    with pytest.raises(CheckpointError, match="odd.pth.tar"):
        read_checkpoint(write(odd=np.array([object()])))


def test_of_several_files_in_a_folder_the_one_that_is_named_is_read(small, tmp_path):
    other = radio_files.write_small(tmp_path / "other.pth.tar", seed=1)
    folder, twin = (radio_files.as_folder(p, tmp_path / p.name[0]) for p in (small, other))
    (twin / "model.safetensors").rename(folder / "mine.safetensors")
    key = "patch_generator.embedder.weight"
    for file, source in (("mine", other), ("model", small)):
        found = read_checkpoint(folder / f"{file}.safetensors")
        assert found.backbone[key].equal(read_checkpoint(source).backbone[key])
    parts = radio_files.as_folder(small, tmp_path / "parts", shards=3)
    part = read_checkpoint(sorted(parts.glob("*.safetensors"))[1])
    assert part.backbone.keys() == read_checkpoint(small).backbone.keys(), "parts are one"


def test_a_folder_of_torch_files_is_told_what_it_holds(small, tmp_path):
    (tmp_path / "weights").mkdir()
    shutil.copy(small, tmp_path / "weights" / "a.pth.tar")
    with pytest.raises(CheckpointError, match="config.json.*or name the file itself: a.pth.tar"):
        read_checkpoint(tmp_path / "weights")


def test_a_wrong_head_is_named_with_the_right_ones(small, tmp_path):
    with pytest.raises(CheckpointError, match="'siglip3'; it has clip, siglip2, dino_v2, sam"):
        language(small, language="siglip3")
    path = radio_files.write_small(tmp_path / "a.pth.tar", outputs={"clip": 16, "dino_v2": 12})
    with pytest.raises(CheckpointError, match="no feature head 'sam'; it has clip, dino_v2"):
        language(path, refine="sam")


def test_the_language_head_is_the_teachers(small):
    encoder = make_encoder("radseg", checkpoint=str(small), device="cpu")
    assert (encoder.language, encoder.language_channels, encoder.channels) == ("siglip2", 24, 64)
    assert (
        make_encoder(
            "radseg", checkpoint=str(small), device="cpu", language="clip"
        ).language_channels
        == 16
    )


def test_version_4_names_its_heads_otherwise(tmp_path):
    path = radio_files.write_small(
        tmp_path / "a.pth.tar",
        outputs={"siglip2-g": 24, "dino_v3": 12, "sam3": 8},
        layer_scale=False,
    )
    assert make_encoder("radseg", checkpoint=str(path), device="cpu").language == "siglip2-g"


def test_a_language_teacher_of_another_name_is_found_by_its_type(tmp_path):
    teachers = [{"name": "dino_v2", "type": "dino_v2"}, {"name": "words", "type": "open_clip"}]
    path = radio_files.write_small(
        tmp_path / "a.pth.tar", outputs={"dino_v2": 12, "words": 24}, teachers=teachers
    )
    assert make_encoder("radseg", checkpoint=str(path), device="cpu").language == "words"
    path = radio_files.write_small(tmp_path / "b.pth.tar", outputs={"dino_v2": 12, "sam": 24})
    with pytest.raises(CheckpointError, match="none of its heads is a language head: dino_v2, sam"):
        make_encoder("radseg", checkpoint=str(path), device="cpu")


def test_teachers_that_occur_twice_share_a_token(small, tmp_path):
    def twice(content):
        content["args"].teachers = [*content["args"].teachers, content["args"].teachers[0]]

    config = build_radio(
        read_checkpoint(radio_files.rewrite(small, tmp_path / "a.pth.tar", twice))
    ).config
    assert (config.num_cls_tokens, config.summary_idxs) == (4, [0, 1, 2])


def test_heads_that_upsample_are_refused(small, tmp_path):
    def upsample(content):
        content["args"].teachers[3]["fd_upsample_factor"] = 2

    path = radio_files.rewrite(small, tmp_path / "a.pth.tar", upsample)
    with pytest.raises(CheckpointError, match="feature head sam upsamples 2 times"):
        language(path, refine="sam")


def test_a_file_without_heads_says_which_file_has_them(small, tmp_path):
    folder = radio_files.as_folder(small, tmp_path / "hf", with_heads=False, version="c-radio_v3-h")
    with pytest.raises(
        CheckpointError, match="c-radio_v3-h_half.pth.tar.*huggingface.co/nvidia/C-RADIOv3-H"
    ):
        language(folder)


@pytest.mark.parametrize("how", ["name", "config"])
def test_v3_l_is_refused_unless_forced(small, tmp_path, how):
    if how == "name":
        path = tmp_path / "c-radio-v3_l_half.pth.tar"
        path.write_bytes(small.read_bytes())
    else:
        path = radio_files.as_folder(small, tmp_path / "hf", version="c-radio_v3-l")
    with pytest.raises(CheckpointError, match="not aligned with text.*radseg.force"):
        language(path)
    assert language(path, force=True).shape == (24, 24)


def test_identity_follows_the_weights_and_the_head(small, tmp_path):
    def name(path, **options):
        return make_encoder("radseg", checkpoint=str(path), device="cpu", **options).name

    other = radio_files.write_small(tmp_path / "other.pth.tar", seed=1)
    assert len({name(small), name(small, language="clip"), name(other)}) == 3
    copy = tmp_path / "copy.pth.tar"
    copy.write_bytes(small.read_bytes())
    assert name(copy) == name(small)


def test_paths_versions_and_ids(small, tmp_path, monkeypatch):
    assert find_radio(str(small)) == small
    for missing in (
        "nowhere.pth.tar",
        "weights/radio.pth.tar",
        str(tmp_path / "no/such/folder"),
        "c-radio_v9-b",
    ):
        with pytest.raises(CheckpointError, match=re.escape(missing) + ".*no such file"):
            find_radio(missing, offline=True)
    with pytest.raises(CheckpointError, match="radio_v2.5-b, radio_v2.5-l, radio_v2.5-h"):
        find_radio("nvidia/RADIO")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        socket.socket, "connect", lambda *_: pytest.fail("offline, and yet the network was used")
    )
    with pytest.raises(
        CheckpointError, match="c-radio_v3-b_half.pth.tar of nvidia/C-RADIOv3-B is not in.*offline"
    ):
        find_radio("c-radio_v3-b", offline=True)
    repo = tmp_path / "models--nvidia--C-RADIOv3-B"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    file = repo / "snapshots" / ("0" * 40) / "c-radio_v3-b_half.pth.tar"
    file.parent.mkdir(parents=True)
    file.write_bytes(small.read_bytes())
    for name in (
        "c-radio_v3-b",
        "nvidia/C-RADIOv3-B",
        "nvidia/C-RADIOv3-B/c-radio_v3-b_half.pth.tar",
    ):
        assert find_radio(name, offline=True) == file
    np.testing.assert_array_equal(language("c-radio_v3-b"), language(small))


@pytest.mark.parametrize("offline", [False, True])
def test_weights_that_cannot_be_fetched_name_what_can_be_done(monkeypatch, offline):
    class LocalEntryNotFoundError(Exception):
        pass

    def refuse(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(CheckpointError) as told:
        find_radio("c-radio_v3-b", offline)
    why = "offline forbids" if offline else "no connection, and it is not in the cache. A copy is"
    assert why in str(told.value) and ("`lite` needs no download" in str(told.value)) != offline
