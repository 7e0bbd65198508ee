# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 skin: the only room that imports ROS."""
