# SPDX-License-Identifier: Apache-2.0
"""What the last block of RADIO can attend by: one function for each method (docs/method.md 2.7)."""
