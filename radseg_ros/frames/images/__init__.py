# SPDX-License-Identifier: Apache-2.0
"""Images of messages and files -> arrays: every encoding of colour and of depth."""
