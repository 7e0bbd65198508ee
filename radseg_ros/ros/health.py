# SPDX-License-Identifier: Apache-2.0
"""How the node is doing, for machines and people: /diagnostics, ~/status, and a line in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from radseg_interfaces.msg import MapStatus

from ..device import gpu_bytes
from ..watchdog import Level, Report, Watchdog
from . import messages
from .faults import Faults
from .outputs.latched import LATCHED

if TYPE_CHECKING:
    from ..live_map import LiveMap, LiveStatus
    from .inputs import Inputs

PERIOD = 1.0  # s
LOOK_BACK = 5.0  # s that rates and complaints are about; and between two lines in the log
LOST_PIXELS = 0.1  # share of the depth pixels that is worth a word


class Health:
    """Publishes what is known about ``live``; :meth:`tick` is to be called every ``PERIOD``."""

    def __init__(self, node: Node, live: LiveMap, inputs: Inputs, faults: Faults) -> None:
        self._node, self._live, self._inputs, self._faults = node, live, inputs, faults
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._watchdog = Watchdog(LOOK_BACK)
        self._status = node.create_publisher(MapStatus, "~/status", LATCHED)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def tick(self) -> None:
        """Look at everything once."""
        status = self._live.status()
        names, faults = list(self._inputs.topics), self._faults.total
        now = time.monotonic()
        report = self._watchdog.look(now, status, names, self._inputs.state, faults)
        self._status.publish(messages.status_message(status))
        self._diagnostics.publish(self._message(status, report))
        line = self._watchdog.news(now, report, status.integrated)
        # rclpy wants one severity per line of code
        if line and report.level is Level.OK:
            self._node.get_logger().info(f"{line}{_pixels(status.pixels)}")
        elif line:
            self._node.get_logger().warning(line)

    def _message(self, status: LiveStatus, report: Report) -> DiagnosticArray:
        topics = self._inputs.topics
        values = {
            "encoder": status.encoder or f"{self._live.config.encoder}, loading",
            "frames": status.integrated,
            "frames waiting": status.waiting,
            "last frame (s ago)": "never" if status.age is None else f"{status.age:.1f}",
            "voxels": status.voxels,
            "voxels that wait for ~/confirm_map": status.pending,
            "answerable voxels (%)": round(100 * status.answerable),
            "map (bytes)": status.map_bytes,
            "GPU (bytes)": gpu_bytes(),
            **{
                f"{topics.get(name, name)} (Hz)": f"{rate:.1f}"
                for name, rate in report.rates.items()
            },
            **{f"{stage} (ms)": f"{1000 * s:.1f}" for stage, s in report.latencies.items()},
            **{f"{topics.get(name, name)} (inputs)": a for name, a in status.accounts.items()},
            **{f"dropped: {reason}": count for reason, count in status.drops},
            **{f"caught: {what}": n for what, n in [*self._faults.items(), *status.faults]},
            **_of_the_journal(status),
            **_of_the_disk(status),
        }
        described = DiagnosticStatus(
            level=bytes([report.level]),
            name=f"{self._name}: map",
            message=report.text,
            hardware_id=self._name,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        now = self._node.get_clock().now().nanoseconds
        return DiagnosticArray(header=messages.header(now, ""), status=[described])


def _of_the_journal(status: LiveStatus) -> dict[str, int]:
    journal = status.journal
    if journal is None:
        return {}
    return {
        "journal (frames)": journal.frames,
        "journal (bytes)": journal.nbytes,
        "journal: frames not written": journal.lost,
        "journal: damaged records": journal.damaged,
        "correction: frames to move": journal.moving,
        "correction: frames that could not be moved": journal.unmoved,
    }


def _of_the_disk(status: LiveStatus) -> dict[str, int]:
    disk = status.disk
    if disk is None:
        return {}
    return {
        "voxels on the disk": disk.voxels,
        "bricks (bytes)": disk.nbytes,
        "bricks on their way back": disk.wanted,
        "bricks not written": disk.failed,
        "bricks: voxels that could not be read": disk.damaged,
    }


def _pixels(counts: dict[str, int]) -> str:
    """Why depth pixels were not used, if that is many of them."""
    total = sum(counts.values())
    lost = {r: n / total for r, n in counts.items() if r != "used" and n > LOST_PIXELS * total}
    shown = ", ".join(f"{share:.0%} {reason}" for reason, share in lost.items())
    return f"; depth pixels not used: {shown}" if shown else ""
