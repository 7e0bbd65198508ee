# SPDX-License-Identifier: Apache-2.0
"""What a map means to who drives in it: floor plans, and from where things can be seen."""
