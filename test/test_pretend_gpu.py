# SPDX-License-Identifier: Apache-2.0
"""The pretended GPU refuses what a real one refuses; without that, tests on it would prove
nothing.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from pretend_gpu import pretend
from torch import nn


@pytest.fixture(autouse=True)
def there():
    with pretend() as device:
        yield device


def test_what_is_there_is_on_cuda_and_stays_there():
    a = torch.zeros(3, device="cuda")
    made = [
        a + 1,
        a[:2],
        a.to(torch.float64),
        torch.cat([a, a]),
        torch.where(a > 0, a, -1),
        a[None].T,
    ]
    made += [torch.zeros_like(a), a.new_ones(2), *torch.unique(a, return_inverse=True), a.nonzero()]
    made += [torch.tensor([1.0]).to("cuda"), torch.arange(3, device=a.device), torch.ones(2).cuda()]
    assert all(tensor.device.type == "cuda" and tensor.is_cuda for tensor in made)
    assert torch.zeros(3).device.type == a.cpu().device.type == a.to("cpu").device.type == "cpu"
    assert not a.cpu().is_cuda and type(a.cpu()) is torch.Tensor


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: a + b,
        lambda a, b: b + a,
        lambda a, b: torch.cat([a, b]),
        lambda a, b: a.add_(b),
        lambda a, b: torch.index_select(a, 0, b.long()),
        lambda a, b: nn.functional.linear(b[None], a[None]),
        lambda a, b: torch.maximum(a, other=b),
    ],
)
def test_two_devices_do_not_mix(mix):
    with pytest.raises(RuntimeError, match="two devices"):
        mix(torch.zeros(3, device="cuda"), torch.zeros(3))


@pytest.mark.parametrize("convert", [np.asarray, np.array, torch.Tensor.numpy])
def test_a_tensor_is_no_array_before_it_is_copied_back(convert):
    with pytest.raises(TypeError, match="numpy"):
        convert(torch.zeros(3, device="cuda"))
    assert torch.zeros(3, device="cuda").cpu().numpy().sum() == 0


def test_numbers_go_with_every_device_and_come_back():
    a = torch.tensor([1.0, 2.0], device="cuda")
    b = a * torch.tensor(2.0) + 1  # one number of the host may be anywhere
    assert b.tolist() == [3.0, 5.0] and float(b.sum()) == 8 and bool((b > 2).all())
    b[b > 4] = 0.0
    b += 1
    assert b.is_cuda and b.tolist() == [4.0, 1.0]


def test_copies_are_copies_and_views_are_views():
    near = torch.zeros(2)
    far = near.to("cuda")
    far[0] = 1.0
    far.view(2, 1)[1] = 2.0
    assert near.tolist() == [0.0, 0.0] and far.tolist() == [1.0, 2.0]
    back = far.cpu()
    back.zero_()
    near.copy_(far)
    assert far.tolist() == near.tolist() == [1.0, 2.0]


def test_modules_move_and_other_threads_know_the_device():
    layer, found = nn.Linear(2, 3), []
    assert layer.to("cuda").weight.is_cuda
    with pytest.raises(RuntimeError, match="two devices"):
        layer(torch.zeros(1, 2))
    thread = threading.Thread(target=lambda: found.append(layer(torch.zeros(1, 2, device="cuda"))))
    thread.start()
    thread.join()
    assert found[0].is_cuda and found[0].shape == (1, 3)
    with pytest.raises(RuntimeError, match="ordinal"):
        torch.zeros(1, device="cuda:7")
