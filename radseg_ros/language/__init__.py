# SPDX-License-Identifier: Apache-2.0
"""From words to vectors: templates, text towers, and where vectors are kept."""
