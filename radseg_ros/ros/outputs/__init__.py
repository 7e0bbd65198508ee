# SPDX-License-Identifier: Apache-2.0
"""What the node publishes of the map, for whoever listens: clouds, things, floor plans."""
