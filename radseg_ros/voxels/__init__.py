# SPDX-License-Identifier: Apache-2.0
"""The voxel map: lifting frames into it, its table, index and storage, its files."""
