# SPDX-License-Identifier: Apache-2.0
"""The CLIP family against the authors' numbers (test/data/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import golden_file
from torch.nn import functional as F

from radseg_ros.encoders import feedback, pamr
from radseg_ros.encoders.clip import attention, scclip, talk2dino, textregion, trident
from radseg_ros.encoders.clip.towers.backbones import load_backbone
from radseg_ros.encoders.clip.towers.clip import ClipTower, at_size, normalised, positions
from radseg_ros.encoders.protocol import CLIP_FAMILY, Classifier, Encoder, make_encoder

VECTORS, SHARES, ROUNDED = 2e-5, 5e-5, 2e-4  # tolerances of vectors, probabilities, half precision
CPU = torch.device("cpu")


class Golden(dict):
    """The arrays of one file, as tensors."""

    def __init__(self, name: str) -> None:
        with np.load(golden_file(f"peers/{name}.npz")) as content:
            super().__init__({key: torch.from_numpy(content[key]) for key in content})

    def image(self, name: str = "image", columns: slice = slice(None)) -> np.ndarray:
        return self[name][0].numpy().transpose(1, 2, 0)[:, columns]


@pytest.fixture(scope="module")
def golden():
    """Name -> its arrays, each file read once."""
    read: dict[str, Golden] = {}
    return lambda name: read[name] if name in read else read.setdefault(name, Golden(name))


@pytest.fixture(scope="module")
def tower() -> ClipTower:
    return ClipTower(str(golden_file("peers/tiny_clip_hf")), CPU)


def encoder_of(name: str, **options):
    checkpoint = "tiny_dinov2_reg_hf" if name == "talk2dino" else "tiny_clip_hf"
    tiny = {"proxyclip": {"proxy": "tiny_dino_hf"}, "talk2dino": {"text_tower": "tiny_clip_hf"},
            "trident": {"proxy": "tiny_dino_hf", "sam": "tiny_sam_vision_hf"}}  # fmt: skip
    folders = {"checkpoint": checkpoint, **tiny.get(name, {})}
    paths = {key: golden_file(f"peers/{folder}") for key, folder in folders.items()}
    return make_encoder(name, **{"device": "cpu", "crop": 0, **paths, **options})


def near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = VECTORS) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def same_direction(ours: torch.Tensor, tokens: torch.Tensor) -> None:
    """(D, h, w) unit vectors, and (1, h*w, D) of any length."""
    near(ours.flatten(1).T, F.normalize(tokens[0], dim=1))


def cosines_of(features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return attention.cosine_maps(features, text)[None]


# The tower


def test_the_tower_is_clips(golden, tower):
    data = golden("naclip")
    table = tower._vision.embeddings.position_embedding.weight
    near(positions(table, (9, 13))[None], data["pos_embed_9x13"])
    for image, name in ((data["image"][..., :96, :96], "plain_native"), (data["image"], "plain")):
        tokens = tower.blocks(image)[-1]
        q, k, v = tower.qkv(tokens)
        mixed = attention.scaled(q, k).softmax(-1) @ v
        near(tower.project(tower.kept(tokens, tower.output(mixed))), data[name])
    data = golden("proxyclip")
    tokens = tower.blocks(data["image"])[-1]
    q, k, v = tower.qkv(tokens)
    out = tower.output(attention.scaled(q, k).softmax(-1) @ v)
    near(tower.project(tower.kept(tokens, out))[:, 1:], data["plain_square"])


# NACLIP


@pytest.mark.parametrize(("columns", "name"), [((0, 208), "rect"), ((32, 176), "square")])
def test_naclip(golden, columns, name):
    data = golden("naclip")
    image = data.image(columns=slice(*columns))
    features = encoder_of("naclip").encode(image).data
    same_direction(features, data[f"naclip_{name}_features"])
    near(cosines_of(features, data["text"]), data[f"naclip_{name}_cos"])
    same_direction(
        encoder_of("naclip", crop=208).encode(image).data, data[f"naclip_{name}_features"]
    )


@pytest.mark.slow
def test_naclip_with_the_block_kept_and_its_bias(golden):
    data = golden("naclip")
    features = encoder_of("naclip", keep_block=True).encode(data.image()).data
    same_direction(features, data["naclip_rect_keepblock_features"])
    bias = attention.gaussian_bias((9, 9), 5.0, CPU)
    near(bias[1 + 20, 1:], data["naclip_square_bias_row20"])
    assert not bias[0].any() and not bias[:, 0].any()


@pytest.mark.slow
def test_naclip_scores_of_pixels(golden):
    data = golden("naclip")
    image, text = data["image"][0], data["text"]
    encoder = encoder_of("naclip", crop=96, stride=48)
    logits = encoder.pixel_scores(image, text)
    near(logits[None, :, ::2, ::2], data["naclip_slide_logits"])
    refined = pamr.pamr(normalised(image), logits, 10, (8, 16))
    near(refined[None, :, ::2, ::2], data["pamr_logits"])
    shares = encoder_of("naclip", crop=96, stride=48, pamr=10).probabilities(data.image(), text)
    near(shares[:, ::2, ::2], data["naclip_pamr_probs"], SHARES)
    assert torch.equal(shares.argmax(0), data["naclip_pamr_pred"][0].long())


# SC-CLIP


def test_scclip(golden):
    data = golden("scclip")
    features = encoder_of("scclip").encode(data.image()).data
    same_direction(features, data["sc_features"])
    near(cosines_of(features, data["text"]), data["sc_cos"])


@pytest.mark.parametrize(
    ("options", "name"), [({"class_share": 0.0}, "sc_rescls0"), ({"beta": 0.8}, "sc_beta08")]
)
@pytest.mark.slow
def test_scclip_options(golden, options, name):
    data = golden("scclip")
    features = encoder_of("scclip", **options).encode(data.image()).data
    same_direction(features, data[f"{name}_features"])


@pytest.mark.slow
def test_scclip_step_by_step(golden):
    data, encoder = golden("scclip"), encoder_of("scclip")
    x, grid = encoder.tower.blocks(data["image"]), (8, 8)
    near(x[-1][0, 1:], data["sc_lof_input"])
    scores = scclip.outlier_scores(x[-1][:, 1:])
    near(scores[0], data["sc_lof_scores"])
    outliers = (scores[0] > scores[0].quantile(0.95)).nonzero()[:, 0]
    assert set(outliers.tolist()) == set(data["sc_outliers"].tolist())
    patches, similar = scclip.repaired([x[-1][:, 1:], x[9][:, 1:]], grid)
    averaged = scclip.averaged(patches, attention.cosines(similar), 0.4)
    near(averaged, data["sc_after_pre_aggregate"])
    own, fused = encoder.parts(x, grid)
    near(own, data["sc_after_post_aggregate"])
    near(fused, data["sc_multi"])


# ResCLIP


RES = [((0, 208), "rect"), ((32, 176), "square")]


@pytest.mark.parametrize(("columns", "name"), RES)
@pytest.mark.parametrize(
    ("half", "end", "tolerance"), [(True, "", ROUNDED), (False, "_f32", VECTORS)]
)
@pytest.mark.slow
def test_resclip(golden, columns, name, half, end, tolerance):
    data = golden("resclip")
    image, text = golden("naclip")["image"][..., slice(*columns)], data["text"]
    encoder = encoder_of("resclip", half=half)
    features = encoder.features(image, text)[0]
    theirs = F.normalize(data[f"res_{name}_features{end}"][0], dim=1)
    near(features.flatten(1).T, theirs, tolerance)
    near(cosines_of(features, text), data[f"res_{name}_cos{end}"], tolerance)


@pytest.mark.parametrize(("columns", "name"), RES)
@pytest.mark.slow
def test_resclip_step_by_step(golden, columns, name):
    data = golden("resclip")
    image, text = golden("naclip")["image"][..., slice(*columns)], data["text"]
    encoder = encoder_of("resclip")
    first = encoder.features(image)[0]
    same_direction(first, data[f"res_{name}_rcs_only_features"])
    seen, cosines = normalised(image[0]), attention.cosine_maps(first, text)
    labels = feedback.first_labels(cosines, seen, 40, 0.25)
    assert torch.equal(labels, data[f"res_{name}_patch_labels"])
    near(feedback.blurred_rows(feedback.support(labels), 5.0), data[f"res_{name}_sfr"])
    if name == "square":
        shares = (40 * pamr.pamr(seen, at_size(cosines, (144, 144)))).softmax(0)
        near(shares[None, :, ::2, ::2], data["res_square_first_probs"], SHARES)


@pytest.mark.slow
def test_resclip_matrix_of_labels(golden):
    data = golden("resclip")
    labels = data["sfr_labels"]
    near(feedback.blurred_rows(feedback.support(labels), 5.0), data["sfr_matrix"])
    same = (labels.flatten()[:, None] == labels.flatten()).float()
    near(feedback.blurred_rows(same, 5.0), data["sfr_matrix_nodecay"])


# ProxyCLIP


class Given:
    """Stands in for the proxy: gives what the test says."""

    hash, channels = "given", 24

    def __init__(self, maps: torch.Tensor) -> None:
        self.maps = maps

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps


def few_differ(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """(D, h, w) and (1, h*w, D): all but 1 % of the tokens, whose threshold rounding decides."""
    ours, theirs = ours.flatten(1).T, F.normalize(theirs[0], dim=1)
    assert ours.shape == theirs.shape
    wrong = ((ours - theirs).abs() > VECTORS).any(1)
    assert wrong.float().mean() <= 0.01


@pytest.mark.parametrize("name", ["same", "fine", "coarse"])
@pytest.mark.slow
def test_proxyclip(golden, name):
    data, encoder = golden("proxyclip"), encoder_of("proxyclip")
    encoder.proxy = Given(data[f"proxy_{name}_ex_feats"])
    features = encoder.encode(data.image()).data
    few_differ(features, data[f"proxy_{name}_features"])
    wrong = (cosines_of(features, data["text"]) - data[f"proxy_{name}_cos"]).abs() > VECTORS
    assert wrong.any(1).float().mean() <= 0.01


@pytest.mark.slow
def test_proxyclip_options_and_the_grid_that_authors_swap(golden):
    data, encoder = golden("proxyclip"), encoder_of("proxyclip", beta=0.5, gamma=10.0)
    encoder.proxy = Given(data["proxy_fine_ex_feats"])
    few_differ(encoder.encode(data.image()).data, data["proxy_fine_b05_g10_features"])
    encoder = encoder_of("proxyclip")
    encoder.proxy = Given(data["proxy_rect_ex_feats"])
    ours = encoder.encode(data.image("rect_image")).data
    theirs = F.normalize(data["proxy_rect_official_features"][0], dim=1)
    assert (ours.flatten(1).T - theirs).abs().max() > 0.01, "theirs lays rows out as columns"


@pytest.mark.slow
def test_backbones(golden):
    data = golden("dino_backbones")
    dinov2 = load_backbone(str(golden_file("peers/tiny_dinov2_reg_hf")), CPU)
    near(dinov2(data["image"]).flatten(2).transpose(1, 2), data["dinov2_patchtokens"])
    qkv = [part.transpose(1, 2).flatten(2) for part in dinov2.last_qkv(data["image"])]
    near(torch.cat(qkv, 2), data["dinov2_last_qkv"])
    dino = load_backbone(str(golden_file("peers/tiny_dino_hf")), CPU)
    near(dino(data["square_image"]).flatten(2).transpose(1, 2), data["dino_patchtokens"])


@pytest.mark.slow
def test_proxyclip_with_dino(golden):
    data = golden("dino_backbones")
    features = encoder_of("proxyclip").encode(data.image("square_image")).data
    assert features.shape == (32, 18, 18)
    few_differ(features, data["proxyclip_dino_features"])
    wrong = (cosines_of(features, data["text"]) - data["proxyclip_dino_cos"]).abs() > VECTORS
    assert wrong.any(1).float().mean() <= 0.01


# Talk2DINO


@pytest.mark.slow
def test_talk2dino(golden, tmp_path):
    data, file = golden("talk2dino"), tmp_path / "projection.pth"
    state = {
        f"{layer}.{part}": data[f"proj_{layer.replace('.', '_')}_{part}"]
        for layer in talk2dino.LAYERS
        for part in ("weight", "bias")
    }
    torch.save(state, file)
    parts = talk2dino.read_projection(file, 48, CPU)
    text = talk2dino.projected(data["text_raw"].mean(1), parts)
    near(text, data["text_embedding"])
    tokens = data["patch_tokens"]
    features = attention.unit_map(tokens, (6, 6))
    scores = attention.cosine_maps(features, text)
    near(scores, data["t2d_simmap"])
    encoder = encoder_of("talk2dino", projection=file)
    encoder.dino = GivenDino(tokens, data["last_block_qkv"])
    image = data["image"][0]
    image = image / 255 if image.max() > 1 else image
    near(encoder.pixel_scores(image, text)[None], data["t2d_plain_masks"], SHARES)
    encoder = encoder_of("talk2dino", projection=file, clean_background=True)
    encoder.dino = GivenDino(tokens, data["last_block_qkv"])
    near(encoder.pixel_scores(image, text)[None], data["t2d_bgclean_masks"], SHARES)
    encoder = encoder_of("talk2dino", projection=file, clean_background=True, pamr=10)
    encoder.dino = GivenDino(tokens, data["last_block_qkv"])
    near(encoder.pixel_scores(image, text)[None], data["t2d_bgclean_pamr_masks"], SHARES)


class GivenDino:
    """Stands in for DINOv2: 3 heads, 5 tokens before the patches."""

    prefix = 5

    def __init__(self, tokens: torch.Tensor, qkv: torch.Tensor) -> None:
        self.maps = tokens.transpose(1, 2).unflatten(2, (6, 6))
        self.qkv = [part.unflatten(2, (3, -1)).transpose(1, 2) for part in qkv.chunk(3, 2)]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.maps

    def last_qkv(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.qkv


# Trident


@pytest.mark.slow
def test_sam(golden):
    data = golden("sam_attention")
    sam = load_backbone(str(golden_file("peers/tiny_sam_vision_hf")), CPU)
    near(sam.embedding(data["sam_input"]), data["sam_embedding"])
    looks, values = sam.last_attention(data["sam_input"], tuple(data["valid_hw"].tolist()))
    near(looks[None], data["sam_attn"])
    near(values[None], data["sam_v"])


RULES = {"neg": (1.2, True), "noneg": (3.0, False), "zero": (0.0, True), "high": (12.0, False)}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.slow
def test_trident(golden, name):
    data = golden("trident")
    cos_fac, negative = RULES[name]
    ours = trident.affinity(data["sam_attn"][0], data["sam_v"][0], cos_fac, negative)
    wrong = ((ours - data[f"trident_{name}_affinity"]).abs() > VECTORS).any(1)
    assert wrong.float().mean() <= 0.01
    encoder = trident_of(data, cos_fac=cos_fac, refine_neg_cos=negative)
    features = encoder.encode(data.image()).data
    assert features.shape == (32, 10, 14)
    few_differ(features, data[f"trident_{name}_features"])
    wrong = (cosines_of(features, data["text"]) - data[f"trident_{name}_cos"]).abs() > VECTORS
    assert wrong.any(1).float().mean() <= 0.01


def trident_of(data: Golden, vfm: str = "vfm_feats", **options):
    encoder = encoder_of("trident", crop=112, stride=48, **options)
    encoder.proxy = Given(data[vfm])
    encoder.looks = lambda image: (data["sam_attn"][0], data["sam_v"][0])
    return encoder


@pytest.mark.slow
def test_trident_step_by_step(golden):
    data, encoder = golden("trident"), trident_of(golden("trident"))
    image = data["image"][0]
    places = encoder._places(image)
    rows = [location.tolist() for location in data["window_locs"]]
    assert [[y // 16, x // 16] for y, x in places] == [[row[0], row[2]] for row in rows] or [
        [y // 16, x // 16] for y, x in places
    ] == [row[:2] for row in rows]
    images = torch.stack([image[:, y : y + 112, x : x + 112] for y, x in places])
    tokens = encoder.window_tokens(images, data["vfm_feats"])
    near(tokens.flatten(2).transpose(1, 2), data["trident_window_attn_out"])
    shares = encoder.probabilities(data.image(), data["text"])
    near(shares[:, ::2, ::2], data["trident_probs"], SHARES)
    few_differ(
        trident_of(data, "vfm_feats_6").encode(data.image()).data, data["trident_vfm6_features"]
    )


# TextRegion


@pytest.mark.slow
def test_textregion(golden):
    data, encoder = golden("textregion"), encoder_of("textregion", crop=96)
    image = data["image"][0]
    whole, tiles, boxes = encoder.tiles(image)
    theirs = data["boxes"]
    near(normalised(torch.cat([whole[None], tiles])), data["clip_inputs"])
    values, patches = encoder.looked(image)
    assert values.shape == (64, 12, 18) and len(boxes) == len(theirs)
    near(cosines_of(patches, data["text"]), data["tr_clip_logits"])
    for threshold, name in ((0.07, "tr"), (0.0, "tr_thr0")):
        encoder = encoder_of("textregion", crop=96, threshold=threshold)
        masks = data["masks"].float()
        shown = attention_masks(masks)
        there = shown.any(1)
        assert torch.equal(there, data["keep0"])
        near(shown[there], data["feature_masks"])
        after = textregion.without_global(shown[there], values.flatten(1).T, threshold)
        near(after, data[f"{name}_masks_after"])
        assert torch.equal(after.any(1), data[f"{name}_keep"])
        vectors, kept = encoder.regions(values, masks)
        near(vectors @ data["text"].T, data[f"{name}_region_logits"])
    encoder = encoder_of("textregion", crop=96)
    shares = encoder.probabilities(data.image(), data["text"], data["masks"])
    near(shares[None, :, ::4, ::4], data["tr_probs"], SHARES)
    assert torch.equal(shares.argmax(0), data["tr_pred"][0].long())


def attention_masks(masks: torch.Tensor) -> torch.Tensor:
    small = F.interpolate(masks[None], (12, 18), mode="bilinear", align_corners=False)[0]
    return small.clamp(0, 1).flatten(1)


# As encoders


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIP_FAMILY)
def test_each_is_an_encoder(golden, name):
    encoder = encoder_of(name, crop=96, stride=48)
    assert isinstance(encoder, Encoder) and isinstance(encoder, Classifier)
    features = encoder.encode((255 * golden("naclip").image()).astype(np.uint8))
    assert features.data.dtype == torch.float32 and features.channels == encoder.channels
    vectors = features.data.flatten(1).T
    assert encoder.project(vectors) is vectors and encoder.language_channels == encoder.channels
    assert encoder.name.startswith(f"{name}-") and len(encoder.checkpoint_hash) == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIP_FAMILY)
@pytest.mark.parametrize("size", [(3, 200), (200, 3), (17, 40), (1, 1)])
def test_odd_images_are_no_trouble(name, size):
    encoder = encoder_of(name, crop=96, stride=48)
    rgb = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    assert encoder.encode(rgb).data.isfinite().all()
    text = F.normalize(torch.randn(3, encoder.channels), dim=1)
    assert encoder.probabilities(rgb, text).isfinite().all()
