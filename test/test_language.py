# SPDX-License-Identifier: Apache-2.0
"""From words to vectors, with text towers small enough to be made here, and without any."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import string

import numpy as np
import pytest
import radio_files
import torch
from damage import altered, damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from radseg_ros.cli.text import main as radseg_text
from radseg_ros.datatypes import LanguageError
from radseg_ros.encoders.protocol import make_encoder
from radseg_ros.language.cache import LABEL, TextCache, load_embeddings, save_embeddings
from radseg_ros.language.embedder import BACKGROUND, TextEmbedder, canonicalise
from radseg_ros.language.templates import AS_WRITTEN, TEMPLATES
from radseg_ros.language.tower import TextTower, folder_hash, load_tokenizer, tower_of

SIZE = 24  # of the small tower's vectors, as the head of the small checkpoint


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADSEG_CACHE", str(tmp_path / "cache"))


class LetterTower:
    """Counts letters; stands in for a text tower and counts how often it is asked."""

    name = "letters"

    def __init__(self, local_hash: str = "v1") -> None:
        self.local_hash = local_hash
        self.texts: list[str] = []

    def embed(self, texts):
        self.texts += texts
        counts = torch.tensor(
            [[float(text.count(c)) + 0.1 for c in string.ascii_lowercase[:SIZE]] for text in texts]
        )
        return F.normalize(counts, dim=-1)


class NoTower(LetterTower):
    """A tower that is not on this machine."""

    def __init__(self) -> None:
        super().__init__(local_hash="")

    def embed(self, texts):
        raise LanguageError("text tower letters is not in the cache")


def save_tower(folder, kind: str):
    """A text tower with random weights and a tokenizer of letters, as a folder of transformers."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    vocabulary = {
        c: i
        for i, c in enumerate(
            ["<pad>", "<unk>", "<eos>", *string.ascii_lowercase, *string.digits, " ", "-"]
        )
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 2)]
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder)
    text = {
        "vocab_size": 48,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text |= {
        "max_position_embeddings": 77 if kind == "clip" else 64,
        "eos_token_id": 2,
        "bos_token_id": 0,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    if kind == "clip":
        config = transformers.CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=SIZE
        )
        model = transformers.CLIPModel(config)
    elif kind == "siglip2":
        config = transformers.Siglip2Config(
            text_config=text | {"projection_size": SIZE}, vision_config=vision
        )
        model = transformers.Siglip2Model(config)
    else:
        config = transformers.SiglipConfig(
            text_config=text | {"projection_size": SIZE}, vision_config=vision
        )
        model = transformers.SiglipModel(config)
    model.eval().save_pretrained(folder)
    return model, fast


@pytest.fixture(scope="module")
def tower_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower") / "siglip2-small"
    save_tower(folder, "siglip2")
    return folder


def test_the_templates_are_those_of_clip_word_by_word():
    text = "\n".join(TEMPLATES)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("c078f4d4ced9")


def test_there_are_80_different_templates():
    assert len(set(TEMPLATES)) == 80 and all(t.count("{c}") == 1 for t in TEMPLATES)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Office_Chair", "office chair"),
        ("  a\tphoto of  a dog. ", "a photo of a dog"),
        ("close-up", "closeup"),
        ("T.V.!", "tv"),
    ],
)
def test_canonical_text(text, canonical):
    assert canonicalise(text) == canonical


@settings(max_examples=50)
@given(st.text())
def test_a_label_may_be_canonical_before_or_after_the_template(text):
    """Which is why vectors are kept under the canonical label."""
    assert canonicalise(canonicalise(text)) == canonicalise(text)
    assert canonicalise(f"a photo of a {text}.") == canonicalise(
        f"a photo of a {canonicalise(text)}."
    )


def test_a_label_is_the_mean_of_unit_vectors_and_a_prompt_is_itself(tmp_path):
    tower = LetterTower()
    embedder = TextEmbedder(tower, SIZE)
    label, prompt = embedder.labels(["Coffee_Mug"])[0], embedder.prompts(["a Coffee mug!"])[0]
    rows = LetterTower().embed([canonicalise(t.replace("{c}", "Coffee_Mug")) for t in TEMPLATES])
    torch.testing.assert_close(label, rows.mean(0))
    assert label.norm() < 0.999
    torch.testing.assert_close(prompt, LetterTower().embed(["a coffee mug"])[0])
    assert len(tower.texts) == 81


def test_every_text_is_embedded_once(tmp_path):
    tower = LetterTower()
    embedder = TextEmbedder(tower, SIZE)
    first = embedder.labels(["chair", "dog", "Chair!"])
    assert len(tower.texts) == 160
    torch.testing.assert_close(first[0], first[2])
    embedder.labels(["dog", "chair"])
    assert len(tower.texts) == 160
    again = TextEmbedder(another := LetterTower(), SIZE)  # another process: the cache on disk
    torch.testing.assert_close(again.labels(["chair", "dog", "chair"]), first)
    assert not another.texts
    torch.testing.assert_close(
        TextEmbedder(NoTower(), SIZE).labels(["dog"])[0], first[1]
    )  # without the tower: newest weights


def test_the_cache_knows_towers_weights_and_modes(tmp_path):
    TextEmbedder(LetterTower(), SIZE).labels(["dog"])
    other_weights = LetterTower(local_hash="v2")
    TextEmbedder(other_weights, SIZE).labels(["dog"])
    prompts = LetterTower()
    TextEmbedder(prompts, SIZE).prompts(["dog"])
    other_tower = LetterTower()
    other_tower.name = "company/letters"
    TextEmbedder(other_tower, SIZE).labels(["dog"])
    assert [len(t.texts) for t in (other_weights, prompts, other_tower)] == [80, 1, 80]


def test_labels_that_are_known_can_be_offered(tmp_path):
    cache = TextCache(tmp_path / "cache")
    desk = TextEmbedder(LetterTower(), SIZE, cache=cache)
    desk.labels(["sofa", "coffee machine"])
    desk.prompts(["where I slept"])
    assert {*desk.known()} == {"sofa", "coffee machine"}
    desk.save(tmp_path / "few.npz", ["lamp"])
    robot = TextEmbedder(None, SIZE, [tmp_path / "few.npz"], TextCache(tmp_path / "empty"))
    assert robot.known() == ["lamp"]


def test_a_damaged_cache_is_mended(tmp_path):
    vector = TextEmbedder(LetterTower(), SIZE).labels(["dog"])
    (file,) = (tmp_path / "cache").rglob("*.npy")
    for damage in (b"", file.read_bytes()[:-9], b"x" * 300):
        file.write_bytes(damage)
        tower = LetterTower()
        torch.testing.assert_close(TextEmbedder(tower, SIZE).labels(["dog"]), vector)
        assert len(tower.texts) == 80
    assert np.load(file).shape == (SIZE,)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    tower = LetterTower()
    embedder = TextEmbedder(tower, SIZE, cache=TextCache(tmp_path / "file"))
    assert embedder.labels(["dog", "cat", "Dog"]).shape == (3, SIZE)
    assert "not cached" in caplog.text and len(tower.texts) == 160
    assert embedder.save(tmp_path / "words.npz", iter(["dog", "cat", "Dog"]), ["dog"]) == 3
    assert len(tower.texts) == 160 + 161  # each once, although nothing was kept


def test_a_file_of_embeddings_replaces_the_tower(tmp_path):
    file = tmp_path / "words.npz"
    embedder = TextEmbedder(LetterTower(), SIZE)
    embedder.save(file, ["Dining_table", "dog"], ["a red dog"])
    robot = TextEmbedder(None, SIZE, [file], TextCache(tmp_path / "empty"))
    torch.testing.assert_close(
        robot.labels(["dog", "dining table"]), embedder.labels(["dog", "dining_table"])
    )
    torch.testing.assert_close(robot.prompts(["A red dog."]), embedder.prompts(["a red dog"]))
    with pytest.raises(LanguageError, match="unknown prompt 'dog'"):
        robot.prompts(["dog"])


def test_files_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "words.npz"
    TextEmbedder(LetterTower(), SIZE).save(file, ["dog"])
    assert ("label", "dog") in load_embeddings(
        file, "mirror/letters"
    )  # another home of the same tower
    with pytest.raises(
        LanguageError, match="words.npz: made with the text tower letters.*needs google/other"
    ):
        load_embeddings(file, "google/other")
    with pytest.raises(LanguageError, match="24 numbers, the head gives 8"):
        load_embeddings(file, dimensions=8)
    with pytest.raises(LanguageError, match="other templates"):
        load_embeddings(file, wording=AS_WRITTEN)
    file.write_bytes(file.read_bytes()[:100])
    for path in (file, tmp_path / "absent.npz"):
        with pytest.raises(LanguageError, match=re.escape(str(path))):
            load_embeddings(path)


def test_an_unknown_label_without_a_tower_is_said_to_be_just_that():
    with pytest.raises(
        LanguageError,
        match="unknown label 'unicorn'.*text tower letters is not in the cache.*radseg-text",
    ):
        TextEmbedder(NoTower(), SIZE).labels(["Unicorn"])
    with pytest.raises(LanguageError, match="unknown label 'unicorn'.*no text tower is known"):
        TextEmbedder(None, SIZE).labels(["unicorn"])
    missing = TextTower("nobody/has-this-tower", offline=True)
    with pytest.raises(
        LanguageError, match="unknown label 'dog'.*nobody/has-this-tower is not in.*offline"
    ):
        TextEmbedder(missing, SIZE).labels(["dog"])
    with pytest.raises(LanguageError, match="no such folder"):
        TextEmbedder(TextTower("/no/such/folder"), SIZE).labels(["dog"])


@pytest.mark.parametrize("text", ["", "  ", "?!", "_"])
def test_texts_without_letters_are_refused(text):
    with pytest.raises(LanguageError, match="no letter"):
        TextEmbedder(LetterTower(), SIZE).labels(["dog", text])


def test_one_text_is_not_a_list_and_no_text_is_an_empty_one():
    embedder = TextEmbedder(LetterTower(), SIZE)
    assert embedder.labels([]).shape == (0, SIZE)
    with pytest.raises(LanguageError, match="list"):
        embedder.labels("dog")


@pytest.mark.parametrize(
    ("head", "size", "model", "tower"),
    [
        ("siglip2", 1536, "siglip2-g-384", "google/siglip2-giant-opt-patch16-384"),
        ("siglip2", 48, "siglip2-so400m", "google/siglip2-so400m-patch16-naflex"),
        ("siglip2", 1152, "", "google/siglip2-so400m-patch16-naflex"),
        ("siglip2-g", 1536, "", "google/siglip2-giant-opt-patch16-384"),
        ("siglip", 1152, "ViT-SO400M-14-SigLIP-384", "google/siglip-so400m-patch14-384"),
        ("clip", 1024, "ViT-H-14-378-quickgelu", "apple/DFN5B-CLIP-ViT-H-14-378"),
        ("siglip2", 48, "", ""),
    ],
)
def test_the_checkpoint_names_the_tower(head, size, model, tower):
    assert tower_of(head, size, model) == tower


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["siglip", "siglip2", "clip"])
def test_towers_through_transformers(tmp_path, kind):
    model, tokenizer = save_tower(tmp_path / kind, kind)
    tower = TextTower(str(tmp_path / kind), offline=True)
    texts = ["a photo of a dog", "chair", "x" * 100]
    length = 77 if kind == "clip" else 64
    ids = tokenizer(
        texts, max_length=length, padding="max_length", truncation=True, return_tensors="pt"
    )["input_ids"]
    assert (
        ids.shape == (3, length) and ids[0, -1] == 0 and ids[2, -1] == 2
    )  # padded on the right, cut before the end token
    with torch.inference_mode():
        features = model.get_text_features(input_ids=ids)
        features = features if isinstance(features, torch.Tensor) else features.pooler_output
    torch.testing.assert_close(tower.embed(texts), F.normalize(features, dim=-1))
    assert tower.dimensions == SIZE and len(tower.local_hash) == 12


def test_towers_that_are_none(tmp_path, tower_folder):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "empty").mkdir()
    missing = "config.json: No such file"
    for name, words in (("bert", "bert models are not supported"), ("empty", missing)):
        with pytest.raises(LanguageError, match=words):
            TextTower(str(tmp_path / name)).embed(["dog"])
    with pytest.raises(LanguageError, match="gives 24 numbers, the language head 48"):
        TextEmbedder(TextTower(str(tower_folder)), 48).labels(["dog"])


def test_from_the_desk_to_the_robot(tmp_path, tower_folder, capsys, monkeypatch):
    """radseg-text where the tower is.

    Then an encoder with its file, and neither tower nor cache.
    """
    checkpoint = radio_files.write_small(tmp_path / "small.pth.tar")
    (tmp_path / "more.txt").write_text("sofa, couch\n\nfloor lamp\n")
    file = tmp_path / "words.npz"
    arguments = [
        "Office_Chair",
        "--file",
        str(tmp_path / "more.txt"),
        "--prompt",
        "a red mug",
        "--out",
        str(file),
    ]
    assert radseg_text([*arguments, "--tower", str(tower_folder), "--offline"]) == 0
    assert f"{4 + len(BACKGROUND) + 1} texts" in capsys.readouterr().out
    options = {
        "checkpoint": str(checkpoint),
        "device": "cpu",
        "offline": True,
        "text_tower": str(tower_folder),
    }
    desk = make_encoder("radseg", **options)
    expected = desk.embed_labels(["office chair", "couch"])
    monkeypatch.setenv("RADSEG_CACHE", str(tmp_path / "other"))
    options["text_tower"] = "/mnt/robot/siglip2-small"  # not there, but the same name
    robot = make_encoder("radseg", **options, text_embeddings=[str(file)])
    torch.testing.assert_close(robot.embed_labels(["office chair", "couch"]), expected)
    assert robot.embed_labels(robot.background).shape == (len(BACKGROUND), SIZE)
    assert robot.embed_prompts(["a red mug"]).shape == (1, SIZE)
    with pytest.raises(LanguageError, match="unknown label 'unicorn'"):
        robot.embed_labels(["unicorn"])


def test_radseg_text_reports_what_is_missing(tmp_path, capsys):
    checkpoint = radio_files.write_small(tmp_path / "small.pth.tar")
    assert radseg_text(["--out", str(tmp_path / "o.npz")]) == 1
    assert "nothing to embed" in capsys.readouterr().err
    assert (
        radseg_text(
            ["dog", "--checkpoint", str(tmp_path / "no.pth.tar"), "--out", str(tmp_path / "o.npz")]
        )
        == 1
    )
    assert "no such file" in capsys.readouterr().err
    assert (
        radseg_text(
            ["dog", "--checkpoint", str(checkpoint), "--offline", "--out", str(tmp_path / "o.npz")]
        )
        == 1
    )
    assert (
        "siglip2-so400m-patch16-naflex is not in the Hugging Face cache" in capsys.readouterr().err
    )
    assert not (tmp_path / "o.npz").exists()


def test_a_tower_without_all_its_weights_is_refused(tmp_path):
    """transformers would fill the gap with random numbers and only warn."""
    from safetensors.torch import load_file, save_file

    save_tower(tmp_path / "t", "siglip")
    weights = load_file(tmp_path / "t" / "model.safetensors")
    weights.pop("text_model.head.weight")
    save_file(weights, tmp_path / "t" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LanguageError, match="cannot be loaded: it lacks .*head.weight"):
        TextTower(str(tmp_path / "t")).embed(["dog"])


def test_the_tokenizer_follows_its_settings(tmp_path):
    """SigLIP 2's says that an end token is added, which not every version of transformers does."""
    import json

    save_tower(tmp_path / "t", "siglip")
    settings_file = tmp_path / "t" / "tokenizer_config.json"
    settings_ = json.loads(settings_file.read_text()) | {
        "add_bos_token": False,
        "add_eos_token": False,
        "padding_side": "left",
    }
    settings_file.write_text(json.dumps(settings_))
    assert load_tokenizer(tmp_path / "t", 5).encode("ab").ids == [3, 4, 0, 0, 0]
    settings_file.write_text(
        json.dumps(settings_ | {"add_eos_token": True, "eos_token": {"content": "<eos>"}})
    )
    assert load_tokenizer(tmp_path / "t", 5).encode("ab").ids == [3, 4, 2, 0, 0]


def embedded_or_refused(folder) -> bool:
    """Whether the tower in ``folder`` could be used; if not, one sentence must have said why."""
    folder_hash.cache_clear()
    try:
        made = TextTower(str(folder), offline=True).embed(["a dog", "x"])
        assert made.shape[0] == 2 and made.isfinite().all()
        return True
    except LanguageError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
        return False


@pytest.mark.slow
def test_towers_of_odd_files_are_refused_or_used(tmp_path, tower_folder):
    folder = shutil.copytree(tower_folder, tmp_path / "tower")
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"):
        good = (folder / name).read_bytes()
        others = list(damaged(good, 12))
        if name.endswith(".json"):
            others += [json.dumps(value).encode() for value in altered(json.loads(good), 20)]
        for data in others:
            (folder / name).write_bytes(data)
            embedded_or_refused(folder)
        (folder / name).write_bytes(good)
        assert embedded_or_refused(folder), name


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_layers": 10**7},
        {"num_hidden_layers": -1},
        {"hidden_size": 10**9},
        {"vocab_size": -5},
        {"max_position_embeddings": 10**12},
        {"num_attention_heads": 0},
    ],
    ids=str,
)
def test_towers_of_sizes_that_cannot_be_are_refused_at_once(tmp_path, tower_folder, sizes):
    folder = shutil.copytree(tower_folder, tmp_path / "tower")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(sizes)
    (folder / "config.json").write_text(json.dumps(config))
    assert not embedded_or_refused(folder)


def test_a_tower_that_gives_no_numbers_is_refused(tmp_path, tower_folder):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tower_folder, tmp_path / "tower")
    weights = load_file(folder / "model.safetensors")
    weights["text_model.final_layer_norm.weight"] *= float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LanguageError, match="its vectors are not finite"):
        TextTower(str(folder), offline=True).embed(["dog"])


def odd_arrays() -> list[np.ndarray]:
    """What may stand in a file of text vectors."""
    numbers = [np.zeros(0), np.zeros((2, 2)), np.zeros((5, 0)), np.full((5, SIZE), np.nan)]
    words = [np.array("x"), np.array(["a", "b"]), np.array([LABEL] * 5), np.array(b"x")]
    return [*numbers, *words, np.array(1.5), np.zeros((5, SIZE), complex), np.array([None])]


def test_files_of_text_vectors_are_refused_or_used(tmp_path):
    path, rng = tmp_path / "words.npz", random.Random(0)
    made = {(LABEL, f"text {i}"): np.ones(SIZE, np.float32) for i in range(5)}
    save_embeddings(path, "tower", made)
    with np.load(path) as content:
        good = {name: content[name] for name in content.files}

    def loaded() -> bool:
        try:
            found = load_embeddings(path, "tower", SIZE)
            assert all(v.shape == (SIZE,) and np.isfinite(v).all() for v in found.values())
            return True
        except LanguageError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return False

    assert loaded()
    for data in damaged(path.read_bytes(), 60):
        path.write_bytes(data)
        loaded()
    for _ in range(60):
        arrays = dict(good)
        for name in rng.sample(sorted(arrays), rng.choice((1, 2))):
            arrays[name] = rng.choice(odd_arrays())
        np.savez(path, **arrays)
        loaded()
    np.savez(path, **{**good, "text": np.array(["same"] * 5)})
    assert not loaded()
    np.savez(path, **{**good, "kind": np.array(["number"] * 5)})
    assert not loaded()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["dog", "--out", "{folder}"], "is a folder: name a file"),
        (["dog", "--out", "{folder}/file/words.npz"], "lies below a file"),
        (["dog", "--out", "/proc/words.npz"], "no file can be written"),
        (["x" * 100_001], "a label takes at most 100000 characters"),
        (["dog", " "], "none of them empty"),
        ([os.fsdecode(b"d\xffg")], "is not UTF-8"),
        (["--file", "{folder}/utf16.txt"], "not text in UTF-8"),
        (["--file", "{folder}/list.json"], "is a .txt file"),
        (["--file", "{folder}/twice.txt"], "2 classes are called 'dog'"),
        (["--file", "{folder}/none.txt"], "none.txt: No such file"),
        (["--file", "{folder}/many.txt"], "at most 10000 labels"),
        (["dog", "--tower", "{folder}"], "config.json: No such file"),
    ],
)
def test_radseg_text_refuses_in_one_line(tmp_path, capsys, arguments, reason):
    (tmp_path / "file").write_text("")
    (tmp_path / "utf16.txt").write_text("dog\n", encoding="utf-16")
    (tmp_path / "list.json").write_text('["dog"]')
    (tmp_path / "twice.txt").write_text("dog\nDog, hound\n")
    (tmp_path / "many.txt").write_text("".join(f"thing {i}\n" for i in range(10_001)))
    given = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    given += [] if "--out" in given else ["--out", str(tmp_path / "words.npz")]
    assert radseg_text([*given, "--offline"]) == 1
    error = capsys.readouterr().err
    assert reason in error and error.startswith("radseg-text: ") and error.count("\n") == 1
    assert not (tmp_path / "words.npz").exists()


def test_radseg_text_without_the_tower_does_not_advise_itself(tmp_path, capsys):
    checkpoint = radio_files.write_small(tmp_path / "small.pth.tar")
    given = ["dog", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "words.npz")]
    assert radseg_text([*given, "--offline"]) == 1
    error = capsys.readouterr().err.removeprefix("radseg-text: ")
    assert "unknown label 'dog'" in error and "radseg-text" not in error
    assert error.endswith("Run this where the tower is, or name its folder with --tower\n")


def test_a_file_of_labels_may_begin_with_a_mark(tmp_path, tower_folder, capsys):
    (tmp_path / "labels.txt").write_bytes("dog\r\nfloor lamp\r\n".encode("utf-8-sig"))
    out = tmp_path / "words.npz"
    arguments = ["--file", str(tmp_path / "labels.txt"), "--tower", str(tower_folder)]
    assert radseg_text([*arguments, "--no-background", "--offline", "--out", str(out)]) == 0
    assert [text for _, text in load_embeddings(out)] == ["dog", "floor lamp"]
