# SPDX-License-Identifier: Apache-2.0
"""Maps that are asked for things by name, and what the answers are worth."""
