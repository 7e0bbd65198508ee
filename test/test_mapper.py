# SPDX-License-Identifier: Apache-2.0
"""The whole chain without ROS and without weights: a room with coloured boxes, asked by name."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from small_worlds import here, host
from torch.nn.functional import normalize

from radseg_ros.answers.filter import mask
from radseg_ros.config import Config, MapConfig, PersistenceConfig, QueryConfig
from radseg_ros.datatypes import (
    ConfigError,
    FeatureMap,
    Filter,
    Frame,
    InputError,
    LanguageError,
)
from radseg_ros.encoders.radseg.heads import ResidualHead
from radseg_ros.mapper import Mapper
from radseg_ros.spaces import make_space
from radseg_ros.voxels.voxel_map import VoxelMap

pytestmark = pytest.mark.usefixtures("device")
K = np.array([[120.0, 0, 79.5], [0, 120, 59.5], [0, 0, 1]])
BOXES = {
    "red": ((-0.5, 0.0, 2.0), (255, 0, 0)),
    "blue": ((0.6, 0.2, 1.5), (0, 0, 255)),
}  # centre of the front face, m
HALF = 0.2


def view(stamp: int = 0, shift: float = 0.0) -> Frame:
    """A camera at (shift, 0, 0) looks along z at a grey wall 3 m away with two coloured squares in
    front of it.
    """
    v, u = np.mgrid[:120, :160]
    ray = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]], -1)
    depth, rgb = np.full((120, 160), 3.0, np.float32), np.full((120, 160, 3), 128, np.uint8)
    for centre, color in BOXES.values():
        hit = (np.abs(ray * centre[2] + (shift, 0) - centre[:2]) <= HALF).all(-1)
        depth[hit], rgb[hit] = centre[2], color
    T = np.eye(4)
    T[0, 3] = shift
    return Frame(stamp, rgb, depth, K, T)


def mapper(**map_options) -> Mapper:
    config = Config(short_side=0, map=MapConfig(**map_options), query=QueryConfig(threshold=0.6))
    encoder = ColorEncoder()
    encoder.device = here()
    result = Mapper(config, encoder)
    for i in range(4):
        result.integrate(view(i * 10, shift=0.05 * i))
    return result


@pytest.mark.parametrize(
    "options",
    [
        {"space": "backbone"},
        {"space": "language"},
        pytest.param(
            {"space": "backbone", "hot_voxels": 3000, "cold_share": 4}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"space": "language", "hot_voxels": 3000, "cold_share": 4}, marks=pytest.mark.slow
        ),
        {"space": "language", "hot_voxels": 100_000, "cold_share": 4},
    ],
    ids=str,
)
def test_boxes_are_found_where_they_are_and_others_are_not(options):
    found = {
        answer.label: answer for answer in mapper(**options).query(["red", "blue", "green"]).answers
    }
    for name, (centre, _) in BOXES.items():
        assert found[name].objects[0].peak == pytest.approx(centre, abs=0.06)
        assert found[name].objects[0].last_seen_ns == 30
        assert found[name].objects[0].size[:2] == pytest.approx((2 * HALF, 2 * HALF), abs=0.16)
    assert not found["green"].found and found["green"].best_score < found["red"].best_score


def test_probability_space_answers_its_labels_and_refuses_others():
    chain = mapper(space="probability", labels=["red", "blue", "grey"])
    red, grey = chain.query(["red", "grey"]).answers
    assert red.objects[0].peak == pytest.approx(BOXES["red"][0], abs=0.06)
    assert max(found.size[0] for found in grey.objects) > 2  # the wall
    total = chain.map.snapshot().features.sum(1)
    assert float(total.max()) <= 1 + 1e-4
    with pytest.raises(ConfigError, match="'green' is not among them"):
        chain.query(["green"])


def test_answers_do_not_depend_on_the_company():
    chain = mapper()
    alone, together = (
        chain.query(["red"]).answers[0],
        chain.query(["blue", "red", "yellow"]).answers[1],
    )
    assert alone == together


def test_semantic_cloud_colors_and_labels():
    cloud = mapper().query(["blue", "red"]).cloud()
    for i, name in enumerate(["blue", "red"]):
        centre = np.median(
            cloud.xyz[cloud.label == i], axis=0
        )  # colour bleeds onto the wall behind
        assert centre == pytest.approx(BOXES[name][0], abs=0.06)
    assert (cloud.label == -1).sum() > len(cloud) / 2  # the wall


def test_empty_map_answers_not_found_and_reset_forgets():
    chain = mapper()
    chain.reset()
    (answer,) = chain.query(["red"]).answers
    assert not answer.found and answer.best_score == 0.0
    assert len(chain.rgb_cloud()) == 0 and len(chain.query(["red"]).cloud()) == 0


def test_threshold_and_max_objects_of_a_request():
    chain = mapper()
    strict, few = QueryConfig(threshold=1.0), QueryConfig(threshold=0.4, max_objects=1)
    assert not chain.query(["red"], strict).answers[0].found
    assert len(chain.query(["grey"], few).answers[0].objects) == 1


def test_unknown_text_is_an_error_and_changes_nothing():
    chain = mapper()
    before = len(chain.map)
    with pytest.raises(LanguageError):
        chain.query(["espresso"])
    assert len(chain.map) == before and chain.query(["red"]).answers[0].found


def test_each_text_is_embedded_once(monkeypatch):
    calls: list[str] = []
    embed = ColorEncoder.embed_labels
    monkeypatch.setattr(
        ColorEncoder,
        "embed_labels",
        lambda self, labels: calls.extend(labels) or embed(self, labels),
    )
    chain = mapper()
    for _ in range(3):
        chain.query(["red", "red", "blue"])
    assert sorted(calls) == ["blue", "grey", "red"]  # grey is the background


@pytest.mark.parametrize("texts", [[], [""], ["red", "  "]])
def test_an_empty_question_is_refused(texts):
    with pytest.raises(InputError, match="at least one label"):
        mapper().query(texts)


def test_answers_and_cloud_are_of_one_moment():
    chain = mapper()
    result = chain.query(["red"])
    chain.reset()
    assert result.answers[0].found and len(result.cloud()) == len(result.geometry) > 0


def test_queries_while_frames_arrive_see_whole_frames():
    chain = mapper()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(20):
                assert chain.query(["red"]).answers[0].found
                cloud = chain.rgb_cloud()
                assert len(cloud.xyz) == len(cloud.rgb)
        except Exception as error:  # handed to the main thread
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for i in range(20):
        chain.integrate(view(1000 + i, shift=0.02 * i))
    thread.join()
    assert not errors


def test_timings_count_every_frame():
    timings = mapper().timings
    assert timings.calls["encode"] == timings.calls["fuse"] == 4
    assert all(seconds > 0 for seconds in timings.seconds.values())


def test_encoder_errors_leave_the_map_whole():
    chain = mapper()
    before = chain.map.snapshot()
    chain.encoder.encode = lambda rgb: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError):
        chain.integrate(view())
    torch.testing.assert_close(chain.map.snapshot().features, before.features)


class Meanwhile(ColorEncoder):
    """Something happens to the map while voxels are projected."""

    happens = staticmethod(lambda: None)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """After it has happened."""
        self.happens()
        return super().project(vectors)


def test_a_question_without_a_limit_covers_the_map_whatever_happens_meanwhile():
    encoder = Meanwhile()
    chain = Mapper(Config(short_side=0), encoder)
    chain.integrate(view())
    voxels = len(chain.map)
    encoder.happens = lambda: chain.integrate(view(10, shift=5.0))
    assert chain.query(["red"]).covered == 1 and len(chain.map) > voxels
    encoder.happens = lambda: chain.clear_box((-9, -9, -9), (9, 0, 9))
    result = chain.query(["red"])
    assert result.covered == 1 and len(result.geometry) == len(chain.map) < 2 * voxels


def without_room_for_more(encoder: ColorEncoder, name: str = "view") -> Mapper:
    """A copy of the map may be kept, until one more frame has come."""
    encoder.device = here()
    chain = Mapper(Config(short_side=0), encoder)
    chain.integrate(view())
    kept = getattr(chain, name).nbytes_for(len(chain.map), here())
    bound = MapConfig(max_bytes=chain.map.nbytes + kept)
    chain.configure(dataclasses.replace(chain.config, map=bound))
    return chain


def test_a_question_ends_although_frames_take_the_room_of_its_vectors():
    encoder, frames = Meanwhile(), itertools.count(1)
    chain = without_room_for_more(encoder)
    voxels = len(chain.map)

    def another() -> None:
        number = next(frames)
        assert number < 50, "the question does not end"
        chain.integrate(view(10 * number, shift=0.3 * number))

    encoder.happens = another
    result = chain.query(["red"])
    assert result.covered == 1 and len(result.geometry) >= voxels
    assert chain.view.nbytes == 0 and next(frames) > 2


@pytest.mark.parametrize("texts", [(), ("red",)])
def test_a_cloud_shows_the_whole_map_although_a_frame_takes_the_room_of_its_copy(
    monkeypatch, texts
):
    name = "view" if texts else "outline"
    chain = without_room_for_more(ColorEncoder(), name)
    kept = getattr(chain, name)
    catch_up = kept.catch_up

    def then_a_frame(*given: object) -> int:
        missing = catch_up(*given)
        chain.integrate(view(10, shift=2.0))
        return missing

    monkeypatch.setattr(kept, "catch_up", then_a_frame)
    changes = chain.changes(-1, texts)
    assert bool(changes.known.all()) and len(changes.geometry) == len(chain.map) > 0
    assert changes.scores.shape == (len(chain.map), len(texts))


@pytest.mark.parametrize(
    "options",
    [
        {"space": "backbone"},
        {"space": "language"},
        {"space": "probability", "labels": ["red", "blue", "grey"]},
        pytest.param(
            {"space": "language", "hot_voxels": 2000, "cold_share": 4}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_a_place_is_asked_whatever_the_size_of_the_map_and_before_all_of_it_is_ready(
    monkeypatch, options
):
    chain = mapper(**options)
    here_only = Filter(centre=(*BOXES["red"][0][:2], 2.0), radius=0.15)
    names, rules = ["red", "blue"], QueryConfig(mode="softmax", min_voxels=1)
    with monkeypatch.context() as patch:
        patch.setattr("radseg_ros.mapper.FEW", 0)
        whole = chain.query(names, rules, where=here_only)
    chain.view.clear()
    monkeypatch.setattr("radseg_ros.mapper.MAX_SCORES", 1)
    with pytest.raises(InputError, match="too many at once"):
        chain.query(names, rules)
    found = chain.query(names, rules, where=here_only)
    assert chain.view.nbytes == 0, "no vector is made but those that are asked for"
    assert found.covered == whole.covered == 1 and 0 < len(found.geometry) < 100
    order, other = (np.lexsort(host(each.geometry.index).T) for each in (found, whole))
    indices = host(found.geometry.index)[order], host(whole.geometry.index)[other]
    np.testing.assert_array_equal(*indices)
    np.testing.assert_allclose(found.scores[order], whole.scores[other], atol=0.02)
    assert chain.answerable == ("hot_voxels" in options), "codes need no other vectors"
    nowhere = chain.query(names, rules, where=Filter(centre=(0, 0, 90.0), radius=0.15))
    assert not len(nowhere.geometry) and nowhere.covered == 1 and not nowhere.answers[0].found


@pytest.mark.parametrize("all_of_it", [False, True])
@pytest.mark.parametrize("limit", [None, 60.0])
def test_what_is_on_the_disk_is_shown_and_asked_on_every_device(tmp_path, all_of_it, limit):
    folder = PersistenceConfig(disk_directory=str(tmp_path))
    encoder = ColorEncoder()
    encoder.device = here()
    bound = MapConfig(max_voxels=10_000)
    chain = Mapper(Config(short_side=0, map=bound, persistence=folder), encoder)
    chain.integrate(view())
    voxels = len(chain.map)
    chain.map.beyond.take(chain.map, voxels if all_of_it else voxels // 2)
    assert len(chain.map) < voxels == chain.voxels and all_of_it == (not len(chain.map))
    assert len(chain.rgb_cloud()) == voxels
    result = chain.query(["red"], time_limit=limit)
    assert len(result.geometry) == voxels and result.covered == 1 and result.answers[0].found
    near = Filter(centre=(0.0, 0.0, 3.0), radius=0.5)
    assert len(chain.query(["grey"], where=near).geometry) == int(
        mask(result.geometry, near, 0).sum()
    )
    chain.close()


class WithHead(ColorEncoder):
    """A head of the size that RADIO has, with random weights."""

    channels, language_channels, coarse_head = 768, 1152, True

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.device = here()
        self.head = ResidualHead(768, 1520, 1152, 2).eval().to(self.device)

    @torch.no_grad()
    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Through the head."""
        return self.head(vectors).float()


@pytest.mark.slow
@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_questions_project_in_bfloat16_where_the_processor_has_it(monkeypatch, supported, wanted):
    monkeypatch.setattr("radseg_ros.spaces.multiplies_bfloat16", lambda: supported)
    space = make_space(Config(map=MapConfig(fast_projection=wanted)), WithHead())
    means, texts = torch.randn(200, 768).to(here()), torch.randn(50, 1152).to(here())
    exact = normalize(space.encoder.project(means), dim=1)
    found = space.answer_vectors(means)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact) == (not (supported and wanted and here().type == "cpu"))
    moved = (found - exact) @ normalize(texts, dim=1).T
    assert moved.abs().max() < 1e-3
    world = VoxelMap(768, MapConfig(), device=here())
    world.integrate(view(), FeatureMap(torch.randn(768, 8, 10)))
    exact = normalize(space.encoder.project(world.snapshot().features), dim=1)
    torch.testing.assert_close(space.language_vectors(world), exact)  # the evaluator's


@pytest.mark.parametrize("space", ["backbone", "language"])
def test_a_picture_finds_what_looks_like_it(space):
    chain = mapper(space=space)
    for name, (centre, color) in BOXES.items():
        picture = np.full((24, 32, 3), color, np.uint8)
        result = chain.query_image(picture, name)
        (answer,) = result.answers
        assert answer.label == name and answer.found
        assert answer.objects[0].peak == pytest.approx(centre, abs=0.06)
        features = torch.cat([*chain.map.means()]).double()
        usual = features.mean(0)
        asked = chain.space.features(picture).data.flatten(1).double().mean(1) - usual
        expected = normalize(features - usual, dim=1) @ normalize(asked, dim=0)
        np.testing.assert_allclose(result.scores[:, 0], host(expected.clamp(0, 1)), atol=1e-5)
    elsewhere = chain.query_image(picture, "blue", where=Filter(highest=(0.0, 9.0, 9.0)))
    assert not elsewhere.answers[0].found and elsewhere.geometry.xyz[:, 0].max() <= 0
    green = chain.query_image(np.full((24, 32, 3), (0, 255, 0), np.uint8), "green")
    assert not green.answers[0].found and green.covered == 1


def test_pictures_that_cannot_be_asked_with_are_refused():
    picture, labels = np.zeros((8, 8, 3), np.uint8), ["red", "blue"]
    with pytest.raises(ConfigError, match="stores probabilities"):
        mapper(space="probability", labels=labels).query_image(picture, "thing")
    for wrong in (picture[0], picture.astype(np.int64), np.zeros((1, 900, 3), np.uint8)):
        with pytest.raises(InputError):
            mapper().query_image(wrong, "thing")
    with pytest.raises(InputError, match="none of them empty"):
        mapper().query_image(picture, " ")
    empty = Mapper(Config(short_side=0), ColorEncoder())
    assert not empty.query_image(picture, "thing").answers[0].found


@pytest.mark.parametrize("space", ["backbone", "language", "probability"])
def test_vectors_of_texts_ask_as_the_texts_do(space):
    labels = ["red", "blue", "grey"]
    chain = mapper(space=space, labels=labels if space == "probability" else [])
    vectors = host(chain.space.text_vectors(labels))
    by_text, by_vector = chain.query(labels), chain.query(labels, vectors=3 * vectors)
    np.testing.assert_allclose(by_vector.scores, by_text.scores, atol=1e-6)
    again = chain.query(labels, vectors=vectors[::-1].copy())
    np.testing.assert_allclose(again.scores, by_text.scores[:, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.ones((1, 7)), "8 numbers"),
        (np.ones((2, 8)), "8 numbers"),
        (np.zeros((1, 8)), "finite"),
        (np.full((1, 8), np.inf), "finite"),
    ],
)
def test_vectors_that_mean_nothing_are_refused(vectors, reason):
    with pytest.raises(InputError, match=reason):
        mapper().query(["thing"], vectors=vectors)


def test_the_mode_decides_how_scores_are_made():
    chain, labels, modes = mapper(), ["red", "blue"], ("relevancy", "softmax", "cosine")
    scores = {mode: chain.query(labels, QueryConfig(mode=mode)).scores for mode in modes}
    assert (scores["softmax"].sum(1) <= 1 + 1e-6).all()
    vectors = chain.space.answer_vectors(torch.cat([*chain.map.means()]))
    wanted = chain.space.text_vectors(labels)
    np.testing.assert_allclose(
        scores["cosine"], host(vectors.cpu() @ wanted.cpu().T).clip(0, 1), atol=2e-3
    )
    for one, other in itertools.combinations(modes, 2):
        assert np.abs(scores[one] - scores[other]).max() > 0.1
