# SPDX-License-Identifier: Apache-2.0
"""3D open-vocabulary semantic mapping: RGB-D and poses in, a queryable voxel map out."""

import os

# Threads that wait for each other sleep instead of spinning: on a machine that does other work as
# well (every robot) small operations are up to 20 times faster. Read by OpenMP when torch is
# loaded; an own setting is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
