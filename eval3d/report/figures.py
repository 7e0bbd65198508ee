# SPDX-License-Identifier: Apache-2.0
"""Matplotlib figures without a display, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from radseg_ros.files import whole_file


def new_figure(width: float, height: float) -> Any:
    """An empty figure; inches. No pyplot: no global state, works in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> Path:
    """Write a PNG that does not name the library's version -> ``path``."""
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, metadata={"Software": None})
    return path
