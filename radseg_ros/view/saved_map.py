# SPDX-License-Identifier: Apache-2.0
"""A map file as something that can be asked: with the encoder and the options it was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import Config, options_of, with_options
from ..datatypes import ConfigError, MapFileError
from ..encoders.protocol import encoder_behind, encoder_options, make_encoder
from ..live_map import LiveMap
from ..mapper import Mapper
from ..voxels.map_file import MapHeader, read_header

# ends of options that say nothing of a map
OF_THE_MACHINE = ("device", "compile", "offline", "disk_directory")


def config_of(path: Path, header: MapHeader) -> Config:
    """The options that a map was made with, as far as its file tells and this version knows them.

    Those that belong to the machine (devices) are as they are by default.

    Raises:
        MapFileError: the file names an impossible value.
    """
    encoder = {"encoder": encoder_behind(header.identity.encoder) or Config().encoder}
    config = config_with(path, {**encoder, **options_in(header.notes.get("options"))})
    on_this_machine = replace(header.config, device=Config().map.device)
    return replace(config, map=on_this_machine, lift=header.lift)


def options_in(noted: Any) -> dict[str, Any]:
    """The options that a file tells, by name, as far as this version knows them; not devices."""
    found: dict[str, Any] = {}
    for option in options_of(Config).values():
        value = noted
        for part in option.path:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and option.path[-1] not in OF_THE_MACHINE:
            found[option.name] = value
    if isinstance(found.get("encoder_options"), list):
        found["encoder_options"] = portable(found["encoder_options"])
    return found


def config_with(path: Path, options: Mapping[str, Any]) -> Config:
    """All options, with those that a file told.

    Raises:
        MapFileError: the file names an impossible value.
    """
    try:
        return with_options(Config(), options)
    except ConfigError as error:
        raise MapFileError(f"{path} is damaged: it was made with {error}") from error


def portable(texts: list[str]) -> list[str]:
    """``encoder_options`` without those that belong to the machine."""
    return [text for text in texts if str(text).partition("=")[0] not in OF_THE_MACHINE]


@contextmanager
def open_map(path: Path, changes: Mapping[str, Any] | None = None) -> Iterator[LiveMap]:
    """A map file as a map that can be asked, as the node's is; nothing is written to the file.

    Args:
        changes: options by name that are to be others than those that the file tells.

    Raises:
        MapFileError: the file is missing, damaged, of another version, or made with other weights.
        CheckpointError: the encoder's weights are not here.
        ConfigError: an option does not exist, or cannot have this value.
    """
    begun, changes = config_of(path, read_header(path)), dict(changes or {})
    if "encoder_options" in changes:
        changes["encoder_options"] = [*begun.encoder_options, *changes["encoder_options"]]
    config = with_options(begun, changes)
    encoder = make_encoder(config.encoder, **encoder_options(config, config.encoder))
    live = LiveMap(config)
    try:
        live.start(Mapper(config, encoder))
        live.load(path)
        yield live
    finally:
        live.close()
