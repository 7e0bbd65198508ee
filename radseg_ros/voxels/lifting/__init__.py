# SPDX-License-Identifier: Apache-2.0
"""The lift on a GPU."""
