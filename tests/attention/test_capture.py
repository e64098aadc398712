"""Capture keeps what it was asked for and changes nothing."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
from comfyui_exemplar.attention.layers import Layer

from . import naive

OTHER = Layer("output", 5)


def capture_of(*targets, sigmas=None):
    return Capture(targets, sigmas)


def target(letters="qkv", pictures=None, **kwargs):
    return CaptureTarget(CaptureSpec({naive.LAYER: letters}, **kwargs), pictures=pictures)


def run(capture, call):
    return capture(call, AttentionCall.plain)


def kept(target, letter, sigma=1.0):
    return target.bank.get(sigma, naive.LAYER, letter)


@pytest.mark.parametrize("branches", [(0,), (1, 0), (0, 1), (2, 1, 0)])
def test_only_conditional_rows_are_kept(branches):
    call, only = naive.call(branches=branches, batch=2, grid=(2, 3)), target()
    run(capture_of(only), call)
    for letter in "qkv":
        assert torch.equal(kept(only, letter), getattr(call, letter)[call.rows_of(0)])
    assert only.bank.grid(naive.LAYER) == (2, 3)


def test_a_call_without_conditional_rows_keeps_nothing():
    """A host may run the branches one after the other."""
    only = target()
    run(capture_of(only), naive.call(branches=(1,), batch=2))
    assert only.bank.pictures == 0


def test_roles_take_their_own_pictures_and_letters():
    """As the pipeline inverts two inputs, a reference and its gray copy in one batch."""
    call = naive.call(branches=(1, 0), batch=4)
    source, reference, gray = target("q", range(0, 2)), target("kv", range(2, 3)), target("k", range(3, 4))
    run(capture_of(source, reference, gray), call)
    rows = call.rows_of(0)
    assert torch.equal(kept(source, "q"), call.q[rows[:2]])
    assert torch.equal(kept(reference, "k"), call.k[rows[2:3]])
    assert torch.equal(kept(reference, "v"), call.v[rows[2:3]])
    assert torch.equal(kept(gray, "k"), call.k[rows[3:]])
    asked = {"q": source, "kv": reference, "k": gray}
    for letters, role in asked.items():
        assert {name for _, _, name, _ in role.bank.items()} == set(letters)


def test_a_picture_that_runs_in_several_rows_is_kept_once():
    """A prompt of two parts: ComfyUI runs the conditional branch twice. The first part speaks for the picture."""
    call, only = naive.call(branches=(1, 0, 0), batch=2), target()
    run(capture_of(only), call)
    assert torch.equal(kept(only, "q"), call.q[2:4])


class TestWhoSpeaks:
    """Several calls at a level: which one is kept."""

    @staticmethod
    def call(prediction=1, seed=0, **changed):
        return replace(naive.call(batch=2, seed=seed), prediction=prediction, **changed)

    def test_the_first_call_of_a_prediction(self):
        first, only = self.call(), target()
        capture = capture_of(only)
        run(capture, first)
        run(capture, self.call(seed=5))  # perturbed attention guidance
        assert torch.equal(kept(only, "q"), first.q)

    def test_a_refinement_is_a_prediction_of_its_own(self):
        again, only = self.call(2, seed=5), target()
        capture = capture_of(only)
        run(capture, self.call())
        run(capture, again)
        assert torch.equal(kept(only, "q"), again.q)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_the_first_part_of_a_combined_prompt_whenever_it_comes(self, order):
        parts, only = [self.call(seed=5 * rank, ranks=(rank, rank)) for rank in range(2)], target()
        capture = capture_of(only)
        for rank in order:
            run(capture, parts[rank])
        assert torch.equal(kept(only, "q"), parts[0].q)

    def test_the_first_part_wherever_it_stands_in_a_batch(self):
        call, only = naive.call(branches=(0, 0), batch=2), target()
        run(capture_of(only), replace(call, ranks=(1, 1, 0, 0)))
        assert torch.equal(kept(only, "q"), call.q[2:])

    def test_no_area_of_a_picture(self):
        only = target()
        run(capture_of(only), self.call(whole=False))
        assert only.bank.pictures == 0


class TestCheck:
    """An inversion looks at what it kept before it returns it."""

    def kept(self, sigmas=(2.0, 1.0), batch=2, grid=None, **how):
        capture = capture_of(target(**how), sigmas=(2.0, 1.0))
        for sigma in sigmas:
            run(capture, naive.call(sigma=sigma, batch=batch, grid=grid))
        return capture

    def test_complete(self):
        self.kept().check(2)
        self.kept(pictures=range(1, 2)).check(2)

    def test_a_level_is_missing(self):
        with pytest.raises(ValueError, match=r"nothing of output\.1 at sigma 1\.0000.*EasyCache, LazyCache"):
            self.kept(sigmas=(2.0,)).check(2)

    def test_other_pictures(self):
        with pytest.raises(ValueError, match=r"kept 2 picture\(s\) of 6 tokens.*expected 4 of 1 x 6"):
            self.kept().check(4)

    def test_other_tokens(self):
        with pytest.raises(ValueError, match=r"6 tokens.*expected 2 of 2 x 2"):
            self.kept(grid=(2, 2)).check(2)


def test_a_batch_without_the_pictures_of_a_target_keeps_nothing_for_it():
    only = target("q", range(5, 6))
    run(capture_of(only), naive.call(batch=2))
    assert only.bank.pictures == 0


def test_pictures_are_kept_in_their_order_whatever_the_rows_order():
    call, only = naive.call(batch=2), target()
    turned = AttentionCall(**{**vars(call), "pictures": (1, 0)})
    run(capture_of(only), turned)
    assert torch.equal(kept(only, "q"), call.q[[1, 0]])


class TestSigmas:
    def test_levels_that_are_not_worth_keeping_pass_by(self):
        only = target()
        capture = capture_of(only, sigmas=(2.0, 0.5))
        for sigma in (3.0, 2.0, 1.0, 0.5, 0.1):
            run(capture, naive.call(sigma=sigma))
        assert only.bank.sigmas == (2.0, 0.5)

    def test_a_host_s_rounding_is_forgiven_and_the_exact_level_is_the_key(self):
        only = target()
        capture = capture_of(only, sigmas=(2.0, 0.5))
        run(capture, naive.call(sigma=2.0 * (1 + 5e-5)))
        run(capture, naive.call(sigma=0.5 * (1 - 5e-5)))
        run(capture, naive.call(sigma=0.5 * (1 + 5e-4)))  # another level
        assert only.bank.sigmas == (2.0, 0.5)

    def test_without_a_list_every_level_is_kept(self):
        only = target()
        for sigma in (3.0, 0.1):
            run(capture_of(only), naive.call(sigma=sigma))
        assert only.bank.sigmas == (3.0, 0.1)


class TestCopies:
    def test_the_bank_does_not_follow_the_batch(self):
        call, only = naive.call(batch=2), target()
        run(capture_of(only), call)
        before = kept(only, "q").clone()
        call.q.zero_()
        assert torch.equal(kept(only, "q"), before) and before.abs().sum() > 0

    def test_one_picture_of_a_batch_holds_no_more_memory_than_itself(self):
        only = target("q", range(1, 2))
        run(capture_of(only), naive.call(batch=3))
        tensor = kept(only, "q")
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()

    def test_dtype_and_device(self):
        half, meta = target("q", dtype=torch.bfloat16), target("q", device=torch.device("meta"))
        call = naive.call(batch=2)
        capture = capture_of(half, meta)
        run(capture, call)
        capture.finish()
        assert torch.equal(kept(half, "q"), call.q.to(torch.bfloat16))
        assert kept(meta, "q").device.type == "meta" and kept(meta, "q").dtype == torch.float32


class TestTransparency:
    def test_it_returns_exactly_what_earlier_gives(self):
        call, answer = naive.call(branches=(1, 0)), torch.zeros(2, 6, naive.WIDTH)
        seen = []

        def earlier(asked):
            seen.append(asked)
            return answer

        assert capture_of(target())(call, earlier) is answer
        assert seen == [call]

    def test_other_layers_pass_by(self):
        only = target()
        run(capture_of(only), naive.call(layer=OTHER))
        assert only.bank.layers == ()

    def test_layers_of_all_targets(self):
        second = CaptureTarget(CaptureSpec({OTHER: "k"}))
        assert capture_of(second, target()).layers == (naive.LAYER, OTHER)


def test_every_target_has_its_own_bank():
    first, second = target(), target()
    assert first.bank is not second.bank


@pytest.mark.parametrize("letters", ["", "x", "qo", "Q"])
def test_letters_are_checked(letters):
    with pytest.raises(ValueError, match=rf"Layer output.1 is to keep '{letters}'"):
        CaptureSpec({naive.LAYER: letters})
