# SPDX-License-Identifier: Apache-2.0
"""What the records of a journal tell, in their order: of which of them a map is made.

| kind | fields | what happened |
| --- | --- | --- |
| ``frame`` | :mod:`.record` | a key frame was fused |
| ``moved`` | ``frames`` (numbers), tensor ``poses`` (N, 4, 4) F64 | these are there instead |
| ``clear_box`` | ``lowest``, ``highest`` (m) | the voxels in a box were forgotten |
| ``merge`` | ``path``, ``fingerprint`` | a map file was added |
| ``load`` | ``path``, ``fingerprint`` | a map file took the place of all that was before |
| ``reset`` | | all that was before was forgotten |
| ``wait`` | | a run began, and nobody knows where its frame lies in that of the map |
| ``confirm`` | | it is the same frame: what came since ``wait`` belongs to the map |
| ``resume`` | | a run goes on with the map; what nobody had confirmed does not belong to it |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .record import FRAME, Record

MOVED, CLEARED, MERGED, LOADED, RESET = "moved", "clear_box", "merge", "load", "reset"
WAITS, CONFIRMED, RESUMED = "wait", "confirm", "resume"


@dataclass(slots=True)
class Story:
    """Which records make which map."""

    main: list[Record] = field(default_factory=list)  # the map; may begin with a ``load``
    aside: list[Record] = field(default_factory=list)  # of a run that nobody has confirmed
    waits: bool = False  # whether the map waits, and the run makes ``aside``
    begun: int = 0  # number of the last record that made all before it void
    state: list[Record] = field(default_factory=list)  # that say what main and aside are

    @property
    def base(self) -> Record | None:
        """The map file that the frames of the map were added to."""
        return self.main[0] if self.main and self.main[0].kind == LOADED else None

    @property
    def told(self) -> list[Record]:
        """All records but those that no map is made of any more."""
        return [*self.main, *self.aside, *self.state]

    def frames(self, after: int = 0) -> int:
        """How many frames of the map have a number beyond ``after``."""
        return sum(each.kind == FRAME and each.number > after for each in self.main)


def tell(records: Iterable[Record]) -> Story:
    """The story of records in the order of their numbers."""
    story = Story()
    for record in records:
        if record.kind in (RESET, LOADED):
            story = Story(begun=record.number)
            (story.main if record.kind == LOADED else story.state).append(record)
        elif record.kind in (WAITS, RESUMED):
            story.aside, story.waits = [], record.kind == WAITS
            story.state = [record]
        elif record.kind == CONFIRMED:
            story.main, story.aside, story.waits = [*story.main, *story.aside], [], False
            story.state.append(record)
        else:
            (story.aside if story.waits else story.main).append(record)
    return story
