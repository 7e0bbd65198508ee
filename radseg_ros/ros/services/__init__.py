# SPDX-License-Identifier: Apache-2.0
"""The services of the node: how they are offered, questions, and changes of the map."""
