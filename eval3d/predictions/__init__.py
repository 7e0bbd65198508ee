# SPDX-License-Identifier: Apache-2.0
"""What other programs predicted, scored as our own predictions are (docs/evaluation.md)."""
