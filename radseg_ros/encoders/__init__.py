# SPDX-License-Identifier: Apache-2.0
"""Images to dense features that can be compared with text."""
