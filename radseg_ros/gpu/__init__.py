# SPDX-License-Identifier: Apache-2.0
"""How a GPU is kept busy: work beside other work, and launches that are recorded once."""
