# SPDX-License-Identifier: Apache-2.0
"""RADSeg as one graph in ONNX, written by radseg-onnx and run by onnxruntime in place of torch."""
