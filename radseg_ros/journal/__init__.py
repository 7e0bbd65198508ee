# SPDX-License-Identifier: Apache-2.0
"""What was fused, frame by frame, on the disk: a map can be made of it again."""
