# SPDX-License-Identifier: Apache-2.0
"""What a score means, on small worlds with known answers."""

from __future__ import annotations

import logging
import zlib

import numpy as np
import pytest
import torch
from color_encoder import COLORS, ColorEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import frame
from torch.nn.functional import normalize

from radseg_ros.answers import scores
from radseg_ros.answers.scores import Census, Presence, best_odds
from radseg_ros.cli import text as text_command
from radseg_ros.config import Config, MapConfig, QueryConfig
from radseg_ros.language.words import read_words
from radseg_ros.mapper import Mapper
from radseg_ros.spaces import LEAST_NAMES

NAMES = 200  # everyday names of the small worlds
KINDS = 10  # directions of meaning; name i is of kind i % KINDS


class EverydayEncoder(ColorEncoder):
    """Knows colours, and any number of names of other things: mixtures of colours not seen here."""

    name = "test-everyday"

    def embed_labels(self, labels):
        rows = []
        for label in labels:
            if label in COLORS:
                rows.append(super().embed_labels([label])[0])
                continue
            mixture = torch.rand(self.channels, generator=seed_of(label))
            mixture[:2] *= 0.2  # little red and green
            rows.append(mixture)
        return torch.stack(rows)

    embed_prompts = embed_labels

    def embed_meanings(self, texts, prompts=False):
        return torch.stack([torch.randn(32, generator=seed_of(text)) for text in texts])

    def at_hand(self, labels):
        return list(labels)


def seed_of(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def meanings(coherent: bool) -> torch.Tensor:
    """(NAMES, 32) of names that are like others of their kind, or like none."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(NAMES, 32, generator=generator)
    kinds = torch.randn(KINDS, 32, generator=generator)[torch.arange(NAMES) % KINDS]
    return normalize(own + 2 * kinds if coherent else own, dim=1)


def odds_of(present: list[int], voxels: int = 500) -> torch.Tensor:
    """(voxels, NAMES) log odds: noise around -3, and 8 for what is there, ten voxels each."""
    odds = torch.randn(voxels, NAMES, generator=torch.Generator().manual_seed(1)) - 3
    for place, name in enumerate(present):
        odds[10 * place : 10 * place + 10, name] = 8.0
    return odds


def test_softmax_shares_one_among_texts_and_background():
    similarity, background = torch.rand(50, 3), torch.rand(50, 2)
    shares = scores.softmax(similarity, background, 10.0)
    expected = torch.exp(10 * similarity) / (
        torch.exp(10 * similarity).sum(1) + torch.exp(10 * background).sum(1)
    ).unsqueeze(1)
    torch.testing.assert_close(shares, expected)


def test_relevancy_is_the_logistic_of_the_log_odds():
    similarity, background = torch.rand(50, 3), torch.rand(50, 2)
    odds = scores.log_odds(similarity, background, 100.0)
    expected = 1 / (1 + torch.exp(-odds.double()))
    relevancy = scores.relevancy(similarity, background, 100.0).double()
    torch.testing.assert_close(relevancy, expected, atol=1e-6, rtol=0)


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 40))
def test_best_odds_are_the_mean_of_the_highest(voxels, texts, best):
    odds = torch.randn(voxels, texts)
    expected = odds.numpy()
    expected = np.sort(expected, 0)[::-1][:best].mean(0)
    np.testing.assert_allclose(best_odds(odds, best).numpy(), expected, atol=1e-5)


def test_a_census_measures_what_is_not_there():
    empty = Census.take(odds_of([]), 10, meanings(True))
    furnished = Census.take(odds_of(list(range(0, 100, 5))), 10, meanings(True))
    assert furnished.level == pytest.approx(empty.level, abs=0.1)
    assert furnished.spread == pytest.approx(empty.spread, rel=0.4)
    best = best_odds(odds_of([7]), 10)
    found = furnished.presence(best, torch.zeros(NAMES)).probability
    assert found.argmax() == 7 and found[7] > found.median() + 0.2


def test_what_goes_with_the_map_is_likelier_where_things_go_together():
    kitchen = [kind + KINDS * i for i in range(20) for kind in (0, 1)]  # all of two kinds
    names = meanings(True)
    census = Census.take(odds_of(kitchen), 10, names)
    assert census.coherence == 1
    assert set(census.held.argmax(1).tolist()) == set(names[kitchen].argmax(1).tolist())
    context = census.context(names)
    other = [i for i in range(NAMES) if i not in kitchen]
    assert context[kitchen].median() > context[other].quantile(0.9)
    assert 0 <= context.min() and context.max() <= scores.FITTING


def test_nearness_says_nothing_where_things_do_not_go_together():
    census = Census.take(odds_of(list(range(0, 80, 2))), 10, meanings(False))
    assert census.coherence < 0.7
    lost = Census(0.0, 1.0, -1.0, meanings(False)[:40], 0.0, 1.0, coherence=0.0)
    torch.testing.assert_close(lost.context(meanings(False)), torch.full((NAMES,), scores.TYPICAL))


@given(st.floats(-50, 50), st.floats(0.1, 20), st.floats(-5, 5), st.floats(0.01, 3))
def test_probability_grows_with_evidence_and_with_context(odds, more, context, nearer):
    census = Census(-1.0, 0.5, -3.0, torch.eye(3), 0.0, 1.0, 1.0)
    low, high = census.presence(
        torch.tensor([odds, odds + more], dtype=torch.float64), torch.tensor([context, context])
    ).probability
    assert 0 < low < high < 1
    near = torch.tensor([context, context + nearer], dtype=torch.float64)
    low, high = census.presence(torch.tensor([odds, odds]), near).probability
    assert low < high


def test_probabilities_by_hand():
    census = Census(-1.0, 0.5, -3.0, torch.eye(3)[:1], 0.2, 0.4, 1.0)
    near = torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    context = census.context(near)  # cosines 0.6, 0 and 1 with the one name that is there
    torch.testing.assert_close(context, torch.tensor([1.0, 0.0, 2.0]))
    found = census.presence(torch.tensor([2.0, -1.0, 2.0]), context).probability
    surprise = np.arcsinh(3 / 0.5)
    logits = scores.BIAS + np.array(
        [
            scores.EVIDENCE * surprise + scores.CONTEXT,
            0.0,
            scores.EVIDENCE * surprise + 2 * scores.CONTEXT,
        ]
    )
    np.testing.assert_allclose(found.numpy(), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_a_name_describes_the_voxels_where_it_beats_the_background():
    odds = torch.full((30, NAMES), -1.0)
    odds[:20, 3], odds[20:, 4] = 0.5, -0.5  # the second one fits ten voxels best, but badly
    names = meanings(True)
    held = Census.take(odds, 5, names).held
    torch.testing.assert_close(held[0], names[3])
    torch.testing.assert_close(held[1], names[0])  # names that win no voxel stay in their order


def test_voxels_share_the_probability_down_to_what_is_typical():
    presence = Presence(torch.tensor([0.8]), torch.tensor([10.0]), typical=-10.0)
    odds = torch.tensor([[20.0], [10.0], [6.0], [-2.0], [-10.0], [-19.0]])
    expected = torch.tensor([[0.8], [0.8], [0.8], [0.4], [0.0], [0.0]])
    torch.testing.assert_close(presence.scores(odds), expected)
    lower = Presence(torch.tensor([0.8]), torch.tensor([8.0]), typical=-12.0)
    torch.testing.assert_close(lower.scores(odds - 2), expected)
    nothing = Presence(torch.tensor([0.1]), torch.tensor([-2.0]), typical=0.0)  # fits nothing
    assert nothing.scores(odds).isfinite().all() and nothing.scores(odds).max() <= 0.1 + 1e-6


def test_a_census_knows_what_is_typical():
    for present in ([], list(range(0, 100, 5))):
        census = Census.take(odds_of(present), 10, meanings(True))
        assert census.typical == pytest.approx(-3, abs=0.1)


def mapper_of(encoder: ColorEncoder, **options: object) -> Mapper:
    config = Config(short_side=0, map=MapConfig(voxel_size=0.1, **options))
    mapper = Mapper(config, encoder)
    halves = np.zeros((48, 64, 3), np.float32)
    halves[:, :32, 0] = halves[:, 32:, 1] = 1  # red on the left, green on the right
    mapper.integrate(frame(np.full((48, 64), 2.0, np.float32), rgb=halves))
    return mapper


def test_calibrated_answers_find_what_is_there_and_nothing_else():
    mapper = mapper_of(EverydayEncoder())
    rules = QueryConfig(mode="calibrated")
    red, kettle = mapper.query(["red", "kettle"], rules).answers
    assert red.best_score > kettle.best_score + 0.05
    assert mapper.query(["red"], rules).rules.mode == "calibrated"


def test_a_map_without_room_for_a_copy_gives_the_same_answers():
    rules = QueryConfig(mode="calibrated")
    kept = mapper_of(EverydayEncoder()).query(["red", "kettle"], rules)
    tight = mapper_of(EverydayEncoder())
    tight._may_keep = lambda view, source: False
    direct = tight.query(["red", "kettle"], rules)
    np.testing.assert_allclose(np.sort(kept.scores, 0), np.sort(direct.scores, 0), atol=2e-3)


@pytest.mark.parametrize("kept", [True, False])
def test_a_map_that_is_forgotten_during_a_question_gives_an_answer(kept):
    mapper = mapper_of(EverydayEncoder())
    if not kept:
        mapper._may_keep = lambda view, source: False
    scorer_of = mapper.space.scorer

    def scorer(vectors, rules):
        score = scorer_of(vectors, rules)

        def then_forget(answers):
            scores = score(answers)
            mapper.reset()
            return scores

        return then_forget if len(vectors) == 2 else score

    mapper.space.scorer = scorer
    answers = mapper.query(["red", "kettle"]).answers
    assert [0 <= answer.best_score <= 1 for answer in answers] == [True, True]


def test_a_cloud_has_the_scores_of_a_question():
    mapper = mapper_of(EverydayEncoder())
    asked = mapper.query(["red", "green"])
    shown = mapper.changes(-1, ["red", "green"])
    np.testing.assert_allclose(shown.scores.numpy(), asked.scores, atol=1e-6)
    assert len(mapper.changes(shown.step, ["red", "green"]).slots) == 0


def test_without_everyday_names_answers_are_relevancies_and_it_is_said_once(caplog):
    mapper = mapper_of(ColorEncoder())
    with caplog.at_level(logging.WARNING):
        answers = [mapper.query(["red"]) for _ in range(3)]
    assert {answer.rules.mode for answer in answers} == {"relevancy"}
    assert len([line for line in caplog.messages if "--vocabulary" in line]) == 1
    expected = mapper.query(["red"], QueryConfig(mode="relevancy"))
    np.testing.assert_array_equal(answers[0].scores, expected.scores)


def test_a_vector_is_asked_as_a_text_is():
    mapper = mapper_of(EverydayEncoder())
    rules = QueryConfig(mode="cosine")
    vector = 7 * mapper.encoder.embed_labels(["red"])
    by_text, by_vector = (
        mapper.query(["red"], rules),
        mapper.query(["a picture"], rules, vectors=vector),
    )
    np.testing.assert_allclose(by_vector.scores, by_text.scores, atol=1e-6)


@pytest.mark.parametrize(
    "vector",
    [torch.zeros(1, 8), torch.full((1, 8), torch.nan), torch.ones(1, 7), torch.ones(2, 8)],
)
def test_vectors_that_cannot_be_used_are_refused(vector):
    from radseg_ros.datatypes import InputError

    with pytest.raises(InputError, match="vector"):
        mapper_of(EverydayEncoder()).query(["thing"], vectors=vector)


def test_the_lists_of_words_have_a_source_and_no_word_twice():
    from importlib.resources import files

    for name in ("everyday", "background"):
        words = read_words(name)
        assert len(set(words)) == len(words) and all(word == word.strip() for word in words)
        head = files("radseg_ros.language.words").joinpath(f"{name}.txt").read_text().lower()
        assert "written for this project" in head or "source:" in head
    assert len(read_words("everyday")) > 2 * LEAST_NAMES


def test_the_command_embeds_the_vocabulary(tmp_path, monkeypatch):
    asked = {}

    class Tower:
        name, dimensions = "tower", 4

        def __init__(self, *args):
            pass

    class Embedder:
        def __init__(self, tower, dimensions, **options):
            pass

        def save(self, path, labels, prompts):
            asked["labels"] = list(labels)
            return len(asked["labels"])

    monkeypatch.setattr("radseg_ros.language.tower.TextTower", Tower)
    monkeypatch.setattr("radseg_ros.language.embedder.TextEmbedder", Embedder)
    out = str(tmp_path / "words.npz")
    assert text_command.main(["--vocabulary", "--tower", "t", "--out", out]) == 0
    assert set(read_words("everyday")) | set(read_words("background")) == set(asked["labels"])
