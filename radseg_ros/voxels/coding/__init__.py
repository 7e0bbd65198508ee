# SPDX-License-Identifier: Apache-2.0
"""Vectors in fewer bytes."""
