# SPDX-License-Identifier: Apache-2.0
"""The ground truth: labelled points, or label images lifted like the map."""
