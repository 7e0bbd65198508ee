# SPDX-License-Identifier: Apache-2.0
"""The part of a map that is on the disk, because memory has no room for it."""
