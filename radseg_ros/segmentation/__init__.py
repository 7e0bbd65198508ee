# SPDX-License-Identifier: Apache-2.0
"""2D open-vocabulary segmentation with any encoder, and its refinement with SAM's decoder."""
