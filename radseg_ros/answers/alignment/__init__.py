# SPDX-License-Identifier: Apache-2.0
"""Where one map lies in the frame of another."""
