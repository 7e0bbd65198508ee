# SPDX-License-Identifier: Apache-2.0
"""The demo: a generated room, the programs as processes, and pictures of what they found."""
