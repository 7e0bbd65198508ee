# SPDX-License-Identifier: Apache-2.0
"""The core logs with `logging`; this brings it to the node's logger. Duck-typed: imports no ROS."""

from __future__ import annotations

import logging
from typing import Any


class NodeLogHandler(logging.Handler):
    """Sends what the ROS-free core logs to the node's logger, so that it reaches the console and
    /rosout.
    """

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        # rclpy wants one severity per line of code
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)
