# SPDX-License-Identifier: Apache-2.0
"""Result files, tables, pictures, and one HTML page."""
