# SPDX-License-Identifier: Apache-2.0
"""What people see of a map: a page in the browser, and pictures."""
