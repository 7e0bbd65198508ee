# SPDX-License-Identifier: Apache-2.0
"""Imported before torch: the benchmarks' threads wait as those of the product do."""

from radseg_ros.device import let_threads_sleep

let_threads_sleep()
