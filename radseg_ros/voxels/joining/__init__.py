# SPDX-License-Identifier: Apache-2.0
"""What maps of different frames need before their voxels can be added."""
