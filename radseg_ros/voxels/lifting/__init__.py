# SPDX-License-Identifier: Apache-2.0
"""Pixels to the voxels of one frame: by runs on a CPU, by sorting on a GPU."""
