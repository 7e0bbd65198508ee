# SPDX-License-Identifier: Apache-2.0
"""Evaluation of 3D open-vocabulary maps: the protocol of the RADSeg paper, reproducible to the last
digit.
"""
