# SPDX-License-Identifier: Apache-2.0
"""radseg-info: say what a map file is. Needs neither the encoder nor the recording."""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import run_command
from ..datatypes import brief

if TYPE_CHECKING:
    import numpy as np

    from ..voxels.map_file import MapHeader

NAME = "radseg-info"
STOREY = 3.0  # m
AXES = "xyz"
LONGEST_ROW = 4000  # characters
FIRST_DATE = 1e8  # s; smaller stamps are no dates but begin with a recording


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    return run_command(NAME, lambda: command(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog=NAME, description=__doc__)
    p.add_argument("maps", nargs="+", type=Path, metavar="MAP", help="a .radmap file")
    p.add_argument(
        "--up", choices=AXES, help="the axis along which storeys lie (as the camera was held, or z)"
    )
    p.add_argument(
        "--storey",
        type=float,
        default=STOREY,
        metavar="M",
        help="height of the storeys whose shares are told, from 0 (%(default)s)",
    )
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def command(options: argparse.Namespace) -> int:
    """Print what the maps are -> the exit status."""
    if not 0 < options.storey < math.inf:
        options.storey = STOREY
    found = [describe(path, options.up, options.storey) for path in options.maps]
    print(json.dumps(found, indent=2) if options.json else "\n\n".join(map(table, found)))
    return 0


def describe(path: Path, up: str | None = None, storey: float = STOREY) -> dict[str, Any]:
    """What a map file is, as plain values: metres, seconds, bytes.

    Raises:
        MapFileError: it is missing, damaged, or of another version.
    """
    import numpy as np

    from ..voxels.camera_path import CameraPath
    from ..voxels.map_file import read_geometry

    geometry, header = read_geometry(path)
    xyz = geometry.xyz.double().numpy()
    half, whole = geometry.voxel_size / 2, len(geometry)
    stamps = [geometry.first_seen_ns.min(), geometry.last_seen_ns.max()] if whole else []
    recording, held = header.notes.get("recording"), CameraPath.of(header).up
    up = up or AXES[int(np.abs(held).argmax()) if held.any() else 2]
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "voxels": whole,
        "voxel_size": geometry.voxel_size,
        "lowest": (xyz.min(0) - half).tolist() if whole else [],
        "highest": (xyz.max(0) + half).tolist() if whole else [],
        "up": up,
        "storeys": storeys(xyz[:, AXES.index(up)], storey) if whole else [],
        "channels": header.channels,
        "dtype": header.config.dtype,
        "space": header.config.space,
        "encoder": header.identity.encoder,
        "weights": header.identity.checkpoint_hash,
        "language": header.identity.language,
        "labels": list(header.identity.labels),
        "frame_id": header.identity.frame_id,
        "points": int(geometry.hits.double().sum()),
        "stamps": [int(stamp) / 1e9 for stamp in stamps],
        "options": changed_options(path, header),
        "recording": _summary(recording) if isinstance(recording, dict) else None,
    }


def storeys(height: np.ndarray, storey: float) -> list[dict[str, float]]:
    """The share of the voxels, whose heights (M,) these are, between n and n + 1 storeys."""
    import numpy as np

    number, count = np.unique(np.floor(height / storey), return_counts=True)
    return [
        {"from": n * storey, "to": (n + 1) * storey, "share": c / len(height)}
        for n, c in zip(number.tolist(), count.tolist(), strict=True)
    ]


def changed_options(path: Path, header: MapHeader) -> dict[str, Any]:
    """The options that are not as by default, if the file tells its options."""
    from functools import reduce

    from ..config import Config, options_of
    from ..view.saved_map import config_of

    config, known = config_of(path, header), options_of(Config)
    values = {name: reduce(getattr, option.path, config) for name, option in known.items()}
    return {name: value for name, value in values.items() if value != known[name].default}


def _summary(recording: dict[str, Any]) -> dict[str, Any]:
    found = {k: recording.get(k) for k in ("name", "frames", "used", "complete", "dropped")}
    counts = found["dropped"] if isinstance(found["dropped"], dict) else {}
    counts = {reason: count for reason, count in counts.items() if type(count) is int}
    return {**found, "dropped": counts}


def table(found: dict[str, Any]) -> str:
    """What :func:`describe` gives, for people."""
    rows = {
        "voxels": f"{found['voxels']} of {100 * found['voxel_size']:g} cm, from "
        f"{found['points']} depth pixels",
        "extent": _extent(found),
        f"along {found['up']}": ", ".join(
            f"{s['from']:g} to {s['to']:g} m: {100 * s['share']:.0f} %" for s in found["storeys"]
        ),
        "holds": f"{found['channels']} numbers a voxel, {found['dtype']}, space {found['space']}",
        "encoder": found["encoder"],
        "weights": found["weights"],
        "language": found["language"],
        "labels": ", ".join(found["labels"]),
        "frame": found["frame_id"],
        "seen": _span(found["stamps"]),
        "recording": _recording(found["recording"]),
        "options": ", ".join(f"{name}={value}" for name, value in found["options"].items()),
        "size": f"{found['bytes'] / 1e6:.1f} MB",
    }
    lines = [f"  {name:<10}{brief(text, LONGEST_ROW)}" for name, text in rows.items() if text]
    return "\n".join([found["file"], *lines])


def _extent(found: dict[str, Any]) -> str:
    if not found["voxels"]:
        return ""
    pairs = list(zip(found["lowest"], found["highest"], strict=True))
    size = " x ".join(f"{high - low:.2f}" for low, high in pairs)
    spans = (f"{a} {low:.2f} to {high:.2f}" for a, (low, high) in zip(AXES, pairs, strict=True))
    return f"{size} m: {', '.join(spans)}"


def _span(stamps: list[float]) -> str:
    if not stamps:
        return ""
    first, last = stamps
    if first < FIRST_DATE:
        return f"{first:.2f} to {last:.2f} s of the recording"
    dates = (datetime.fromtimestamp(s, timezone.utc).isoformat(" ", "seconds") for s in stamps)
    return f"{' to '.join(dates)} ({last - first:.0f} s)"


def _recording(recording: dict[str, Any] | None) -> str:
    if recording is None:
        return ""
    state = "" if recording["complete"] else ", not complete: radseg-map --resume goes on"
    dropped = sum(recording["dropped"].values())
    unused = f", {dropped} not used" if dropped else ""
    return (
        f"{recording['name']}: {recording['used']} of {recording['frames']} frames{unused}{state}"
    )


if __name__ == "__main__":
    sys.exit(main())
