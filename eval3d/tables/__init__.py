# SPDX-License-Identifier: Apache-2.0
"""The paper's tables and figures: what it printed, and the same rows run here."""
