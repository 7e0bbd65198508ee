# SPDX-License-Identifier: Apache-2.0
"""From messages and files to frames: decoding, pairing in time, recordings. Imports no ROS."""
