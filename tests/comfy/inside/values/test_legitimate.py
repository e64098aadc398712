"""What is legitimate through a link is not refused, and what is not is told apart."""

import math

import pytest
import torch

from ....fixtures.odd import with_options


class TestPrompts:
    """What is legitimate is not refused, and what is not is told apart."""

    def invert(self, nodes, embedded, scene, conditioning, **settings):
        model, _, vae, _ = embedded
        return nodes(
            "ExemplarDDIMInversion",
            model=model,
            conditioning=conditioning,
            latent={"samples": vae.encode(scene[1])},
            **{"depth": 3, "steps": 50, **settings},
        )

    def test_masks_that_cover_the_picture_together(self, nodes, embedded, scene):
        empty, left = embedded[3], torch.zeros(1, 64, 64)
        left[..., :24] = 1
        plain = self.invert(nodes, embedded, scene, empty)
        halves = with_options(empty, mask=left) + with_options(empty, mask=1 - left)
        covered = self.invert(nodes, embedded, scene, halves)
        assert torch.allclose(covered[1]["samples"], plain[1]["samples"], rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="prompts for a part of the picture only"):
            self.invert(nodes, embedded, scene, halves[:1])

    def test_ranges_are_held_against_the_levels(self, nodes, embedded, scene):
        """Three of fifty steps are the last six percent."""
        empty = embedded[3]
        plain = self.invert(nodes, embedded, scene, empty)
        late = self.invert(nodes, embedded, scene, with_options(empty, start_percent=0.5))
        assert torch.equal(late[1]["samples"], plain[1]["samples"])
        early = with_options(empty, end_percent=0.96)
        with pytest.raises(ValueError, match=r"found no prompt that acts at sigma \d"):
            self.invert(nodes, embedded, scene, early)
        both = early + with_options(empty, start_percent=0.95)
        assert math.isfinite(self.invert(nodes, embedded, scene, both)[3])

    def test_guidance_looks_at_the_levels_when_they_are_known(self, nodes, embedded, inverted):
        from ..sampling import run_guider

        model, _, _, empty = embedded
        _, noised, sigmas, _ = inverted["input"]
        plain = run_guider(nodes("ExemplarColorGuidance", model=model, conditioning=empty)[0], noised, sigmas)
        late = with_options(empty, start_percent=0.5)
        (guider,) = nodes("ExemplarColorGuidance", model=model, conditioning=late)
        assert torch.equal(run_guider(guider, noised, sigmas), plain)
        (guider,) = nodes("ExemplarColorGuidance", model=model, conditioning=with_options(empty, end_percent=0.96))
        with pytest.raises(
            ValueError,
            match=r"Colorization Guidance: conditioning: found no prompt that acts at "
            r"sigma",
        ):
            run_guider(guider, noised, sigmas)

    def test_parts_go_on_to_the_sampler(self, nodes, embedded, right, scene):
        empty = embedded[3]
        area = with_options(empty, area=(8, 8, 0, 0), start_percent=0.2)
        positive, _, _ = nodes(
            "ExemplarLCADCondition", positive=area, negative=empty, image=scene[0], lcad_vae=right.sockets["LCAD_VAE"]
        )
        assert positive[0][1]["area"] == (8, 8, 0, 0) and positive[0][1]["start_percent"] == 0.2


class TestMasks:
    """Shapes that mean masks give what the plain shape gives."""

    @pytest.mark.parametrize("shape", [(64, 64), (1, 1, 64, 64), (1, 64, 64, 1)])
    def test_luminance_merge(self, nodes, scene, shape):
        mask = torch.linspace(0, 1, 64)[None, None, :].expand(1, 64, 64).contiguous()
        inputs = {"color_image": scene[1], "image": scene[0]}
        plain = nodes("ExemplarMergeLuminance", **inputs, mask=mask)[0]
        assert torch.equal(nodes("ExemplarMergeLuminance", **inputs, mask=mask.reshape(shape))[0], plain)
        on = nodes("ExemplarMergeLuminance", **inputs, mask=mask > 0.5)[0]
        assert torch.equal(on, nodes("ExemplarMergeLuminance", **inputs, mask=(mask > 0.5).float())[0])
