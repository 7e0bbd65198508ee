# SPDX-License-Identifier: Apache-2.0
"""The CLIP family: encoders that RADSeg is compared with (docs/method.md 5)."""
