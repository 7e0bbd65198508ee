# SPDX-License-Identifier: Apache-2.0
"""The RADSeg encoder: the RADIO backbone, SCRA, sliding windows, SCGA, and the heads."""
