# SPDX-License-Identifier: Apache-2.0
"""What radseg-map is made of: recordings by name, a map that grows from one, and its progress."""
