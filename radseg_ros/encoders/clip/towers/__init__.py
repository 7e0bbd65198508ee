# SPDX-License-Identifier: Apache-2.0
"""Image towers of other people, opened up: CLIP, DINO, DINOv2, SAM."""
