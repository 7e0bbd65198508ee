# SPDX-License-Identifier: Apache-2.0
"""How well a voxel answers a text: one function for each value of ``query.mode``.

``calibrated`` asks how surprising the evidence for a text is in *this* map. A voxel's log odds
against the background texts say nothing by themselves: some texts fit everything a little, and an
encoder is surer of itself in one room than in another. So they are compared with what some hundred
everyday names get in the same map, most of which are not there (:class:`Census`), and with what
else is there: among cookers and sinks a kettle is likelier than a surfboard
(:meth:`Census.context`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

# Constants of `calibrated`, chosen on one half of the labels and frames of a recorded office with
# the encoder lite (docs/method.md 4.3, `python bench/absent.py`).
BEST_VOXELS = 10  # a thing shows in some voxels, noise in single ones: the mean of so many counts
HELD = 40  # everyday names that describe the map: those that fit most of its voxels best
KINDRED = 5  # of them, the nearest to a text, say what else is there
EVIDENCE, CONTEXT, BIAS = 0.34, 0.76, -1.4  # of the log odds
FITTING = 2.0  # standard deviations: more does not make a thing likelier, and 0 is the least: what
# is odd in a place, such as a fire extinguisher, is only not expected
TYPICAL = 1.0  # context of things that are there, on average
COHERENT = 0.05  # how much more often than not a name of the map must be nearer to the others
SOLID = 0.8  # share of the way from a typical voxel to its best ones at which a thing is whole
SAMPLE = 8192  # voxels that a census looks at
_SPREAD = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
_LEAST_SPREAD = 1e-3


def cosine(vectors: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(M, D) and (Q, D), any length -> (M, Q) cosines; 0 for a zero vector."""
    return normalize(vectors.float(), dim=1) @ normalize(text.to(vectors.device).float(), dim=1).T


def log_odds(similarity: torch.Tensor, background: torch.Tensor, scale: float) -> torch.Tensor:
    """How much each voxel prefers a text to the background text that fits it best.

    Args:
        similarity: (M, Q) cosines with the texts.
        background: (M, B) cosines with the background texts, B >= 1.
        scale: factor on the cosine (100 in the paper).

    Returns:
        (M, Q), 0 = as good as the background.
    """
    return scale * (similarity - background.amax(1, keepdim=True))


def relevancy(similarity: torch.Tensor, background: torch.Tensor, scale: float) -> torch.Tensor:
    """Pairwise softmax against every background text, the worst of them counts (LERF, section 3.3).

    The score of a text does not depend on which other texts are asked for, and 0.5 means "as good
    as the background". Arguments as for :func:`log_odds`.

    Returns:
        (M, Q) in 0..1.
    """
    return torch.sigmoid(log_odds(similarity, background, scale))


def softmax(similarity: torch.Tensor, background: torch.Tensor, scale: float) -> torch.Tensor:
    """Softmax over the texts that are asked for together, and the background.

    Args and returns as for :func:`relevancy`; the scores of a voxel sum to less than 1.
    """
    both = torch.cat([similarity, background], 1)
    return torch.softmax(scale * both, 1)[:, : similarity.shape[1]]


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """What everyday names get in one map: what the evidence for a text is measured by."""

    level: float  # median, over the names, of the log odds of their best voxels
    spread: float  # the standard deviation of those that are not there
    typical: float  # log odds of any name at any voxel, their median
    held: torch.Tensor  # (HELD, E) unit vectors of the names that describe the map
    context_level: float  # as above, of how near the names are to these
    context_spread: float
    coherence: float  # 0..1, whether what is in the map goes together at all

    @classmethod
    def take(cls, odds: torch.Tensor, best: int, meanings: torch.Tensor) -> Census:
        """Look at a map.

        Args:
            odds: (n, V) log odds of the names at a sample of the voxels, n >= 1.
            best: of the n voxels, how many count as the best of a name.
            meanings: (V, E) vectors of the names whose cosines say how near they are in meaning.
        """
        evidence = best_odds(odds, best)
        most, name = odds.max(1)
        votes = torch.bincount(name[most > 0], minlength=odds.shape[1])
        held = votes.argsort(descending=True, stable=True)[:HELD].cpu()
        meanings = normalize(meanings.float().cpu(), dim=1)
        near = meanings @ meanings[held].T
        near[held, torch.arange(len(held))] = -1.0  # a name is no context of itself
        context = _of_nearest(near)
        among = torch.zeros(len(meanings), dtype=torch.bool)
        among[held] = True
        higher = (context[among][:, None] > context[~among]).float().mean()
        coherence = float(((higher - 0.5) / COHERENT).clamp(0, 1).nan_to_num())
        typical = float(odds[::16].median())  # a sample of the sample is enough
        return cls(*_centre(evidence), typical, meanings[held], *_centre(context), coherence)

    def context(self, meanings: torch.Tensor) -> torch.Tensor:
        """(Q, E) vectors of texts -> (Q,) how well each goes with what is in the map.

        In standard deviations from an everyday name that has nothing to do with it; drawn to
        ``TYPICAL`` where the names that describe the map are no nearer to each other than others,
        so that nearness says nothing.
        """
        near = _of_nearest(normalize(meanings.float().cpu(), dim=1) @ self.held.T)
        context = ((near - self.context_level) / self.context_spread).clamp(0, FITTING)
        return self.coherence * context + (1 - self.coherence) * TYPICAL

    def presence(self, best: torch.Tensor, context: torch.Tensor) -> Presence:
        """How probable it is that each thing is in the map.

        Args:
            best: (Q,) log odds of the best voxels, see :func:`best_odds`.
            context: (Q,) of the texts, as above; ``TYPICAL`` if nothing is known of them.
        """
        # a logarithm on both sides of 0: among what is far above the rest, more says little
        surprise = torch.asinh((best.cpu() - self.level) / self.spread)
        probability = torch.sigmoid(EVIDENCE * surprise + CONTEXT * context + BIAS)
        return Presence(probability, best.cpu(), self.typical)


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """What is known of each of Q texts in one map."""

    probability: torch.Tensor  # (Q,) that the thing is there
    best: torch.Tensor  # (Q,) log odds of its best voxels
    typical: float  # log odds of a voxel that has nothing to do with it

    def scores(self, odds: torch.Tensor) -> torch.Tensor:
        """How probable it is that the thing is there, and in this voxel.

        Voxels that are nearly as good as the best have its whole probability, others have less of
        it, down to nothing at what is typical.

        Args:
            odds: (M, Q) log odds of voxels.

        Returns:
            (M, Q) in 0..1.
        """
        probability, best = self.probability.to(odds.device), self.best.to(odds.device)
        above = (best - self.typical).clamp_min(_LEAST_SPREAD)
        return probability * (1 - (best - odds) / above).div_(SOLID).clamp_(0, 1)


def best_odds(odds: torch.Tensor, best: int = BEST_VOXELS) -> torch.Tensor:
    """(M, Q) log odds -> (Q,) mean of the ``best`` highest of each text, M >= 1."""
    return odds.topk(min(max(1, best), len(odds)), 0).values.mean(0)


def _of_nearest(near: torch.Tensor) -> torch.Tensor:
    """(Q, H) cosines -> (Q,) the mean of the highest."""
    return near.topk(min(KINDRED, near.shape[1]), 1).values.mean(1)


def _centre(values: torch.Tensor) -> tuple[float, float]:
    """Median, and the standard deviation of a normal distribution of the same median deviation.

    Names that are there, a tenth or so of all, hardly move them.
    """
    level = values.median()
    return float(level), max(_LEAST_SPREAD, _SPREAD * float((values - level).abs().median()))
