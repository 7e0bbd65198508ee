# SPDX-License-Identifier: Apache-2.0
"""Evaluation of 3D open-vocabulary maps: the RADSeg paper's protocol, reproducible to the digit."""
