"""The pretended GPU itself: what it refuses, what it counts, whose line it names, and that its numbers are right."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.color.batches import let_go
from comfyui_exemplar.diffusion.sampling import sample_ddim

from .fixtures.pretended_gpu import (
    DEVICE,
    DOWNLOAD,
    ITEM,
    MEMORY,
    SIZE,
    UPLOAD,
    PretendedGPU,
    from_gpu,
    on_gpu,
    to_gpu,
)


@pytest.fixture(params=[False, True], ids=["plain", "inference mode"])
def gpu(request):
    with torch.inference_mode(request.param), PretendedGPU() as watched:
        yield watched


def rand(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def kinds(gpu):
    found = [event.kind for event in gpu.events]
    gpu.events.clear()
    return found


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x, y: x + y,
        lambda x, y: y.mul_(x),
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.stack([x, y]),
        lambda x, y: x @ y.T,
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: F.linear(y, x),
        lambda x, y: x.index_select(0, torch.tensor([0])),
        lambda x, y: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
        lambda x, y: F.scaled_dot_product_attention(x[None], y[None], x[None]),
        lambda x, y: torch.cat([x[0, 0].reshape(1), torch.tensor([1.0])]),
    ],
)
def test_devices_that_do_not_go_together(gpu, mixed):
    with pytest.raises(RuntimeError, match=r"devices?.*pretended:0.*cpu"):
        mixed(to_gpu(rand(2, 3)), rand(2, 3))


def test_numbers_on_the_cpu_go_with_everything_elementwise(gpu):
    x = to_gpu(rand(2, 3))
    assert (x * torch.tensor(2.0)).device == DEVICE and (x + 1).device == DEVICE
    with pytest.raises(RuntimeError, match="two devices"):
        x.T @ torch.tensor(2.0).expand(2)
    assert not gpu.events


def test_chance_on_the_cpu_is_none_for_the_device(gpu):
    with pytest.raises(RuntimeError, match="for generator"):
        torch.randn(3, device=DEVICE, generator=torch.Generator())


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: x.item() if x.ndim == 0 else float(x.sum()), [ITEM]),
        (lambda x: bool((x == x).all()), [ITEM]),
        (lambda x: torch.equal(x, x), [ITEM]),
        (lambda x: x.tolist(), [DOWNLOAD]),
        (lambda x: x.cpu().numpy(), [DOWNLOAD]),
        (lambda x: rand(2, 3).copy_(x), [DOWNLOAD]),
        (lambda x: rand(2, 3).to(x), [UPLOAD]),
        (lambda x: rand(2, 3).to(DEVICE), [UPLOAD]),
        (lambda x: torch.tensor([1, 2], device=DEVICE), [UPLOAD]),
        (lambda x: torch.as_tensor(3.0, device=x.device), [UPLOAD]),
        (lambda x: x.new_tensor(3.0), [UPLOAD]),
        (lambda x: x[[1, 0]], [UPLOAD]),
        (lambda x: x[:, [0, 2]], [UPLOAD]),
        (lambda x: x[torch.tensor([1])], [UPLOAD]),
        (lambda x: x.__setitem__([0], 1.0), [UPLOAD]),
        (lambda x: x[x > 0], [SIZE]),
        (lambda x: x.nonzero(), [SIZE]),
        (lambda x: torch.unique(x), [SIZE]),
        (lambda x: x.new_full((), 3.0), []),
        (lambda x: torch.zeros(3, device=DEVICE), []),
        (lambda x: x[1:, ::2].repeat_interleave(2, 0), []),
        (lambda x: x.to(torch.float16), []),
        (lambda x: torch.zeros_like(x, device="cpu"), []),
        (lambda x: F.interpolate(x[None], size=4), []),
    ],
)
def test_what_is_counted(gpu, work, expected):
    x = to_gpu(rand(2, 3))
    work(x)
    assert kinds(gpu) == expected


def test_the_line_that_asked(gpu):
    """Ours is the innermost line that is not torch's, whoever called it."""
    float(to_gpu(rand(1)))
    sigmas = to_gpu(torch.tensor([2.0, 1.0, 0.0]))
    sample_ddim(lambda x, sigma: x / 2, to_gpu(rand(1, 4, 2, 2)), sigmas, disable=True)
    (ours,) = gpu.by_line()
    (others,) = gpu.by_line(ours=False)
    assert ours[0] == DOWNLOAD and ours[1].startswith("diffusion/sampling.py:")
    assert others[0] == ITEM and "test_pretended_gpu.py:" in others[1]
    assert [event.size for event in gpu.events] == [4, 12]


def test_a_device_without_double():
    x = to_gpu(rand(2, 3))
    with PretendedGPU(double=False):
        for work in (x.double, lambda: rand(2).double().to(DEVICE), lambda: torch.zeros(2, device=DEVICE).double()):
            with pytest.raises(TypeError, match="float64"):
                work()
        assert x.float().device == DEVICE


class TestNumbers:
    def network(self):
        torch.manual_seed(0)
        layers = (torch.nn.Conv2d(4, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Flatten())
        return torch.nn.Sequential(*layers, torch.nn.Linear(8 * 36, 3))

    def test_a_network(self, gpu):
        net, x = self.network(), rand(2, 4, 8, 8)
        moved = on_gpu(copy.deepcopy(net))
        for one in (moved, copy.deepcopy(moved)):
            assert torch.equal(from_gpu(one(to_gpu(x))), net(x))
        assert torch.equal(from_gpu(moved.half()(to_gpu(x).half())), net.half()(x.half()))
        assert not gpu.events

    def test_gradients_and_an_optimizer(self):
        net, found = self.network().requires_grad_(False), []
        for device in ("cpu", DEVICE):
            with PretendedGPU() as gpu:
                used = on_gpu(net) if device == DEVICE else net
                x = (to_gpu if device == DEVICE else torch.clone)(rand(2, 4, 8, 8)).requires_grad_(True)
                optimizer = torch.optim.Adam([x], lr=0.1)
                for _ in range(3):
                    (gradient,) = torch.autograd.grad(used(x).pow(2).sum(), [x])
                    x.grad = gradient
                    optimizer.step()
                found.append(from_gpu(x.detach()))
                assert not gpu.events
        assert torch.allclose(*found, atol=1e-6, rtol=0)

    def test_views_share_their_values(self, gpu):
        x = to_gpu(torch.zeros(2, 3))
        x[1].add_(1)
        x[:, 0].fill_(5)
        assert from_gpu(x).tolist() == [[5, 0, 0], [5, 1, 1]]


class TestMemory:
    """Bytes that live there: 24 for each (2, 3) of float32."""

    @pytest.fixture(autouse=True)
    def lives(self):
        gc.collect()  # what other tests left in circles
        before = MEMORY.now
        MEMORY.reset()
        return lambda: (MEMORY.now - before, MEMORY.peak - before)

    def test_what_comes_and_goes(self, gpu, lives):
        x = rand(2, 3).to(DEVICE)
        assert lives() == (24, 24)
        y = x + 1
        assert lives() == (48, 48)
        del x
        assert lives() == (24, 48)
        MEMORY.reset()
        assert lives() == (24, 24)
        del y
        assert lives() == (0, 24)

    def test_a_storage_counts_once_and_whole(self, gpu, lives):
        x = to_gpu(rand(2, 3))
        row, wide = x[0], x[:, :1].expand(2, 100)
        assert lives() == (24, 24)
        x.add_(1)
        del x, wide
        assert lives() == (24, 24) and row.shape == (3,)  # a view keeps all of it
        row = row.clone()
        assert lives() == (12, 36)

    def test_what_is_needed_in_between(self, gpu, lives):
        x = to_gpu(rand(2, 3))
        ((x + 1) * 2).sum()
        assert lives() == (24, 72)  # the first sum goes when the product is there

    def test_other_values(self, lives):
        x = to_gpu(rand(2, 3))
        with PretendedGPU():
            x.data = x.data.half()
            assert lives()[0] == 12
            other = copy.deepcopy(x)
        assert lives()[0] == 24 and torch.equal(from_gpu(other), from_gpu(x))
        del x, other
        assert lives()[0] == 0

    def test_the_cpu_does_not_count(self, gpu, lives):
        x = rand(2, 3)
        y = x.to(DEVICE).cpu()
        assert lives() == (0, 24) and torch.equal(x, y)

    def test_a_network(self, gpu, lives):
        net = on_gpu(torch.nn.Linear(3, 5))
        weights = 4 * (15 + 5)
        assert lives()[0] == weights
        net(to_gpu(rand(2, 3)))
        assert lives() == (weights, weights + 24 + 40)
        net.cpu()
        assert lives()[0] == 0

    def test_an_error_holds_what_its_frames_had(self, gpu, lives):
        def work():
            x = to_gpu(rand(2, 3))
            raise RuntimeError(f"out of memory beside {tuple(x.shape)}")

        try:
            work()
        except RuntimeError as error:
            assert lives()[0] == 24
            let_go(error)
            assert lives()[0] == 0
