# SPDX-License-Identifier: Apache-2.0
"""The text vectors that were used last, so that a question asked again costs no embedding."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

CAPACITY = 4096  # texts; 19 MB at 1152 numbers each

Embed = Callable[[Sequence[str]], torch.Tensor]


class TextMemory:
    """Unit vectors of texts, the least recently used ones forgotten first. Thread safe.

    Args:
        labels: names of things -> (Q, D).
        prompts: free texts -> (Q, D).
    """

    def __init__(self, labels: Embed, prompts: Embed, capacity: int = CAPACITY) -> None:
        self._embed = {False: labels, True: prompts}
        self._capacity = capacity
        self._vectors: OrderedDict[tuple[str, bool], torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def vectors(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """At least one text -> (Q, D) unit vectors; what is not remembered is embedded, once.

        Raises:
            LanguageError: a text cannot be embedded.
        """
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if (text, prompts) not in self._vectors]
            if new:
                made = torch.nn.functional.normalize(self._embed[prompts](new).float(), dim=1)
                keys = ((text, prompts) for text in new)
                self._vectors.update(zip(keys, made, strict=True))
            for text in texts:
                self._vectors.move_to_end((text, prompts))
            found = torch.stack([self._vectors[text, prompts] for text in texts])
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)
            return found
