# SPDX-License-Identifier: Apache-2.0
"""radseg-onnx: write the network of RADSeg, from image to features, to a file of ONNX for
radseg.engine, and see that it does what torch does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..command import positive, run_command
from ..datatypes import ConfigError
from ..files import prepare_file
from .options.encoder import add_encoder_options, encoder_from


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run_command("radseg-onnx", lambda: write(options))


def write(options: argparse.Namespace) -> int:
    """Write the file, and say how well it agrees with torch -> the exit status.

    Raises:
        RadsegRosError: the network cannot be written.
        OSError: the file cannot be written.
    """
    from ..encoders.engines.graph import write_engine
    from ..encoders.radseg.encoder import RadsegEncoder

    prepare_file(options.out)
    encoder = encoder_from(options)
    if type(encoder) is not RadsegEncoder:
        raise ConfigError("only encoder radseg can be written, without radseg.sfr and .engine")
    agreement = write_engine(encoder, options.out, (options.height, options.width), options.int8)
    print(
        f"{options.out}: {options.height} x {options.width} px, {encoder.name}; features within "
        f"{agreement.difference:.0e} of torch's, worst cosine {agreement.cosine:.6f}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="radseg-onnx", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="to write")
    size = "px of the images, after they were brought to short_side"
    parser.add_argument("--height", type=positive, required=True, help=size)
    parser.add_argument("--width", type=positive, required=True, help=size)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="round the matrix products to 8 bit: on a CPU two thirds of the time, less exact",
    )
    add_encoder_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
