# SPDX-License-Identifier: Apache-2.0
"""What the parts of ``bench/gpu.py`` share: the device, networks with random weights, the time that
is left, and the tables that they fill.
"""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure  # isort: skip

import floors  # isort: skip
import numpy as np  # isort: skip
import random_radio  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip

from radseg_ros.config import RadsegConfig
from radseg_ros.datatypes import Frame
from radseg_ros.encoders.radseg.encoder import RadsegEncoder
from radseg_ros.language.cache import LABEL, save_embeddings
from radseg_ros.language.embedder import BACKGROUND

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "test" / "data" / "golden"
NETWORKS = {  # name -> sizes; "tiny" are the weights of the golden numbers
    "tiny": floors.Transformer(96, 3),
    "ViT-B": floors.Transformer(768, 12),
    "ViT-H": floors.Transformer(1280, 32),
}
HEADS = {"ViT-B": 12, "ViT-H": 16}
TYPES = ("float16", "bfloat16", "float32")  # what a GPU is bought for comes first
LONGEST = 3.0  # s that one figure is measured, and the run that was begun by then
LABELS = [f"thing {number}" for number in range(20)]


@dataclass(frozen=True, slots=True)
class Size:
    """A camera, and the image that is made of its images."""

    height: int
    width: int
    camera: tuple[int, int]  # (h, w)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    def frame(self, step: int, room: int = 0) -> Frame:
        """A frame at the working size."""
        return rooms.frame(step, room, self.height, self.width)

    def seen(self, step: int, room: int = 0) -> Frame:
        """A frame as the camera sends it."""
        return rooms.frame(step, room, *self.camera)


class Table:
    """Rows of one part: printed as Markdown when they are there, and kept for the JSON.

    Args:
        columns: name -> format of its numbers.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = dict(columns)
        self.rows: list[dict[str, Any]] = []

    def row(self, **values: Any) -> None:
        """One row; what has no value is empty."""
        if not self.rows:
            print("\n| " + " | ".join(self.columns) + " |")
            print("|" + " --- |" * len(self.columns), flush=True)
        self.rows.append(
            {name.replace(" ", "_"): values.get(_field(name)) for name in self.columns}
        )
        shown = [self._shown(values.get(_field(name)), name) for name in self.columns]
        print("| " + " | ".join(shown) + " |", flush=True)

    def _shown(self, value: Any, column: str) -> str:
        if value is None:
            return ""
        return value if isinstance(value, str) else format(value, self.columns[column])


def _field(column: str) -> str:
    return column.replace(" ", "_").replace("/", "_per_")


class Bench:
    """One run on one device.

    Args:
        device: cpu or cuda.
        quick: a tiny network and small images, to see that everything runs.
        budget: s that the whole run may take; measurements that would begin later are left out.
        folder: for weights; removed by the caller.
        path: of the JSON; None = none.
    """

    def __init__(
        self, device: torch.device, quick: bool, budget: float, folder: Path, path: Path | None
    ) -> None:
        self.device, self.quick, self.folder = device, quick, folder
        self.sizes = [Size(96, 128, (144, 192))]
        self.models = ["tiny"]
        self.windows = {"fast": (0, 0), "balanced": (96, 96), "paper": (96, 48)}
        # all on a GPU, on a CPU what its users have
        self.types = list(TYPES if device.type == "cuda" or quick else ("float32", "bfloat16"))
        self.rounds, self.warm = (2, 1) if quick else (10, 3)
        if not quick:
            self.sizes = [Size(640, 864, (960, 1296)), Size(640, 1136, (720, 1278))]
            self.models = ["ViT-B", "ViT-H"]
            self.windows = {"fast": (0, 0), "balanced": (336, 224), "paper": (336, 112)}
        self._end = time.monotonic() + budget
        self._part_end = self._end
        self._path = path
        self._part: dict[str, Any] = {}
        self._report: dict[str, Any] = {"machine": self._machine(), "quick": quick, "parts": {}}

    # ---- the report ------------------------------------------------------------------------------

    def _machine(self) -> dict[str, Any]:
        card = platform.processor() or platform.machine()
        if self.device.type == "cuda":
            card = torch.cuda.get_device_name(self.device)
        return {
            "device": card,
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "",
            "python": platform.python_version(),
            "numpy": np.__version__,
            "threads": torch.get_num_threads(),
        }

    def narrow(self, networks: Sequence[str] | None, types: Sequence[str] | None) -> None:
        """Measure speed with these networks and types only; None = with all."""
        if networks and not self.quick:
            self.models = [model for model in self.models if model in networks]
        if types:
            self.types = [dtype for dtype in TYPES if dtype in types]

    def begin(self) -> None:
        """Say where this runs."""
        print(
            ", ".join(f"{name} {value}" for name, value in self._report["machine"].items() if value)
        )

    def run(self, name: str, part: Callable[[Bench], None], share: float) -> None:
        """One part; whatever fails in it costs this part only.

        Args:
            share: of the time that is left.
        """
        start = time.monotonic()
        self._part_end = start + share * (self._end - start)
        self._part = {"tables": [], "goals": [], "failures": [], "left_out": []}
        self._report["parts"][name] = self._part
        print(f"\n## {name}", flush=True)
        with self.attempt(name):
            part(self)
        self._part["seconds"] = time.monotonic() - start
        print(f"\n{name}: {self._part['seconds']:.0f} s", flush=True)
        for goal in self._part["goals"]:
            kept = "kept" if goal["kept"] else "MISSED"
            print(f"goal {kept}: {goal['what']}: {goal['value']:.3g} (limit {goal['limit']:.3g})")
        for what in ("left_out", "failures"):
            if self._part[what]:
                print(f"{what.replace('_', ' ')}: {', '.join(self._part[what])}", flush=True)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._path.write_text(json.dumps(self._report, indent=1, default=_rows) + "\n")

    @property
    def good(self) -> bool:
        """Whether nothing failed, and what must hold holds."""
        parts = self._report["parts"].values()
        return not any(part["failures"] for part in parts) and all(
            goal["kept"] for part in parts for goal in part["goals"] if goal["must"]
        )

    def table(self, **columns: str) -> Table:
        """A new table of this part; see :class:`Table`. ``a_b`` is the column "a b"."""
        table = Table(
            {name.replace("_per_", "/").replace("_", " "): f for name, f in columns.items()}
        )
        self._part["tables"].append(table)
        return table

    def goal(self, what: str, value: float, limit: float, must: bool = False) -> None:
        """Compare a number with the most that it may be; in a quick run only what must be."""
        if self.quick and not must:
            return
        kept = bool(value <= limit)
        self._part["goals"].append(
            {"what": what, "value": value, "limit": limit, "kept": kept, "must": must}
        )

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A measurement whose failure is noted, and the others go on."""
        try:
            yield
        except Exception as error:  # of anything that is measured: the rest is still worth knowing
            self._part["failures"].append(f"{what}: {type(error).__name__}: {error}"[:500])
            traceback.print_exc()
            print(f"FAILED {what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def time_for(self, what: str, seconds: float = 0.0) -> bool:
        """Whether the part has time for what takes so long; what it has none for is named."""
        if time.monotonic() + seconds < self._part_end:
            return True
        self.leave_out(what)
        return False

    def leave_out(self, what: str) -> None:
        """Name what this part does not measure."""
        self._part["left_out"].append(what)

    # ---- what is measured ------------------------------------------------------------------------

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Median wall time of a call, with the device's part of it."""
        return measure.median_seconds(work, self.device, self.rounds, self.warm, LONGEST)

    def once(self, work: Callable[[], object]) -> float:
        """Wall time of one call, with the device's part of it."""
        self.wait()
        return measure.seconds(lambda: (work(), self.wait()))

    def mebibytes(self, work: Callable[[], object]) -> float | None:
        """By how much the GPU's memory rises while ``work()`` runs; None = this is no GPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20

    # ---- networks --------------------------------------------------------------------------------

    @functools.cached_property
    def copy_rate(self) -> float:
        """See :func:`floors.copy_rate`."""
        return floors.copy_rate(self.device)

    def checkpoint(self, model: str) -> Path:
        """Weights of that network; random ones are written once."""
        if model == "tiny":
            return GOLDEN / "tiny_radio.pth.tar"
        path, network = self.folder / f"{model}.pth.tar", NETWORKS[model]
        if not path.exists():
            random_radio.write(
                path,
                width=network.width,
                depth=network.depth,
                heads=HEADS[model],
                outputs={"siglip2": 1152},
                prefix=network.prefix,
            )
        return path

    def encoder(self, model: str, dtype: str, device: str = "", **options: Any) -> RadsegEncoder:
        """An encoder that knows ``LABELS``."""
        return RadsegEncoder(
            RadsegConfig(
                checkpoint=str(self.checkpoint(model)),
                dtype=dtype,
                device=device or str(self.device),
                text_embeddings=[str(self._texts(48 if model == "tiny" else 1152))],
                offline=True,
                **options,
            )
        )

    def in_preset(self, encoder: RadsegEncoder, preset: str) -> RadsegEncoder:
        """The same network with other windows."""
        encoder.crop, encoder.stride = self.windows[preset]
        encoder._whole.forget()  # the GPU has recorded the other ones
        return encoder

    def _texts(self, dimensions: int) -> Path:
        path = self.folder / f"texts{dimensions}.npz"
        if not path.exists():
            rng = np.random.default_rng(0)
            texts = [*LABELS, *BACKGROUND]
            rows = rng.normal(size=(len(texts), dimensions)).astype(np.float32)
            save_embeddings(path, "", {(LABEL, t): r for t, r in zip(texts, rows, strict=True)})
        return path


def _rows(table: object) -> Any:
    """Tables as JSON."""
    if isinstance(table, Table):
        return table.rows
    if isinstance(table, np.generic):
        return table.item()
    raise TypeError(f"{type(table).__name__} in the report")
