# SPDX-License-Identifier: Apache-2.0
"""From labels to scores."""
