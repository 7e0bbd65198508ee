# SPDX-License-Identifier: Apache-2.0
"""3D open-vocabulary semantic mapping: RGB-D and poses in, a queryable voxel map out."""
