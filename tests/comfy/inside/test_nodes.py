"""Small nodes: color arithmetic, latent luminance, attention map; and the embedded model under stock nodes."""

import pytest
import torch

from comfyui_exemplar.color import ab_error, luminance
from comfyui_exemplar.hosts.comfy.host import ComfyHost

from .sampling import difference, run


class TestSmallNodes:
    def test_match_latent_statistics(self, nodes):
        content, style = torch.randn(2, 4, 8, 8) * 2 + 1, torch.randn(1, 4, 6, 9) * 3 - 1
        latent = {"samples": content, "batch_index": [0, 1]}
        (out,) = nodes("ExemplarMatchLatentStatistics", latent=latent, reference={"samples": style}, strength=1.0)
        assert torch.allclose(out["samples"].mean((2, 3)), style.mean((2, 3)).expand(2, -1), atol=1e-4)
        assert torch.allclose(out["samples"].std((2, 3)), style.std((2, 3)).expand(2, -1), atol=1e-4)
        assert out["batch_index"] == [0, 1] and latent["samples"] is content
        (same,) = nodes("ExemplarMatchLatentStatistics", latent=latent, reference={"samples": style}, strength=0.0)
        assert torch.equal(same["samples"], content)
        with pytest.raises(ValueError, match="reference: found 3 for 2 picture"):
            three = {"samples": torch.randn(3, 4, 8, 8)}
            nodes("ExemplarMatchLatentStatistics", latent=latent, reference=three, strength=1.0)

    def test_desaturate_and_merge(self, nodes):
        color, gray = torch.rand(1, 20, 30, 3), torch.rand(1, 41, 61, 1).expand(-1, -1, -1, 3)
        (flat,) = nodes("ExemplarDesaturate", image=color, method="CIE lightness")
        assert float((luminance(flat) - luminance(color)).abs().max()) < 0.05
        (merged,) = nodes("ExemplarMergeLuminance", color_image=color, image=gray, match_chroma=0.0, saturation=1.0)
        assert merged.shape == gray.shape
        assert float((luminance(merged) - luminance(gray)).abs().max()) < 0.2
        (official,) = nodes(
            "ExemplarMergeLuminance",
            color_image=color,
            image=gray,
            match_chroma=1.0,
            saturation=1.0,
            arithmetic="official 8 bit",
            reference=color,
        )
        assert official.shape == gray.shape and torch.equal((official * 255).round() / 255, official)
        with pytest.raises(ValueError, match="connect one"):
            nodes(
                "ExemplarMergeLuminance",
                color_image=color,
                image=gray,
                match_chroma=1.0,
                saturation=1.0,
                arithmetic="official 8 bit",
            )

    def test_latent_luminance_exact(self, nodes, embedded, scene):
        _, _, vae, _ = embedded
        latent = {"samples": vae.encode(scene[1])}
        (out, model) = nodes("ExemplarLatentLuminance", vae=vae, image=scene[0], strength=1.0, latent=latent)
        assert model is None
        before = (luminance(vae.decode(latent["samples"])) - luminance(scene[0])).abs().mean()
        after = (luminance(vae.decode(out["samples"])) - luminance(scene[0])).abs().mean()
        assert float(after) < 0.3 * float(before)
        (same, _) = nodes("ExemplarLatentLuminance", vae=vae, image=scene[0], strength=0.0, latent=latent)
        assert torch.equal(same["samples"], latent["samples"])

    def test_latent_luminance_while_sampling(self, nodes, embedded, scene, inverted):
        model, _, vae, empty = embedded
        _, noised, sigmas, _ = inverted["reference"]
        (_, pulled) = nodes("ExemplarLatentLuminance", vae=vae, image=scene[0], strength=1.0, model=model)
        errors = [
            float((luminance(vae.decode(run(m, empty, noised, sigmas))) - luminance(scene[0])).abs().mean())
            for m in (model, pulled)
        ]
        assert errors[1] < 0.5 * errors[0], errors
        (_, off) = nodes("ExemplarLatentLuminance", vae=vae, image=scene[0], strength=0.0, model=model)
        assert torch.equal(run(off, empty, noised, sigmas), run(model, empty, noised, sigmas))
        with pytest.raises(ValueError, match="nothing to work on"):
            nodes("ExemplarLatentLuminance", vae=vae, image=scene[0], strength=1.0)

    def test_attention_map(self, nodes, inverted, scene):
        inputs = {
            "input_inversion": inverted["input"][0],
            "reference_inversion": inverted["gray"][0],
            "image": scene[0],
            "reference": scene[1],
            "x": 0.5,
            "y": 0.5,
        }
        shown, heat, carried, confidence = nodes("ExemplarAttentionMap", **inputs)
        assert carried.shape == scene[0].shape and heat.shape == scene[1].shape[:3] == confidence.shape
        assert float(heat.max()) == pytest.approx(1.0) and shown.shape[2] > 2 * 64
        moved = nodes("ExemplarAttentionMap", **{**inputs, "x": 0.05, "y": 0.05})[1]
        assert difference(moved, heat) > 0.1, "another point looks elsewhere"
        mask = torch.zeros(1, 64, 64)
        mask[:, 30:34, 30:34] = 1
        assert difference(nodes("ExemplarAttentionMap", **inputs, mask=mask)[1], moved) > 0.1
        hard = nodes("ExemplarAttentionMap", **inputs, carry="hard")[2]
        assert difference(hard, carried) > 0.01
        with pytest.raises(ValueError, match="covers nothing"):
            nodes("ExemplarAttentionMap", **inputs, mask=mask * 0)
        with pytest.raises(ValueError, match="q in input_inversion and k in reference_inversion"):
            nodes("ExemplarAttentionMap", **inputs, layers="middle")


class TestEmbeddedModel:
    def test_prompts(self, embedded):
        _, clip, _, empty = embedded
        red = clip.encode_from_tokens_scheduled(clip.tokenize("red apple"))
        strong = clip.encode_from_tokens_scheduled(clip.tokenize("(red:2.0) apple"))
        assert red[0][0].shape == empty[0][0].shape
        assert difference(red[0][0][0, 1], strong[0][0][0, 1]) == 0 < difference(red[0][0][0, 0], strong[0][0][0, 0])

    def draw(self, embedded, prompt, size=128, seed=1):
        """What the stock nodes make of a prompt: (H, W, 3) in 0..1."""
        import nodes as stock

        model, clip, vae, empty = embedded
        words = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        latent = stock.EmptyLatentImage().generate(size, size, 1)[0]
        (out,) = stock.KSampler().sample(model, seed, 16, 4.0, "euler", "normal", words, empty, latent, 1.0)
        return vae.decode(out["samples"])[0]

    @pytest.mark.parametrize(
        "prompt, stronger, weaker", [("red heart", 0, 2), ("blue heart", 2, 0), ("green apple", 1, 2)]
    )
    def test_stock_nodes_draw_from_words(self, embedded, prompt, stronger, weaker):
        """One thing on white, in its color; the empty latent is the stock node's, an eighth of the size."""
        image = self.draw(embedded, prompt)
        assert image.shape == (128, 128, 3)
        corners = torch.stack([image[y, x] for y in (4, -5) for x in (4, -5)])
        assert float(corners.mean()) > 0.85  # white
        middle = image[40:88, 40:88].mean((0, 1))
        assert float(middle[stronger] - middle[weaker]) > 0.2, middle

    def test_latent_preview(self, embedded, scene):
        """The linear preview shows the picture."""
        model, _, vae, _ = embedded
        latent_format = model.model.latent_format
        z = vae.encode(scene[1])
        factors, bias = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
        rgb = z.movedim(1, -1) @ torch.tensor(factors) + torch.tensor(bias)
        small = torch.nn.functional.avg_pool2d(scene[1].movedim(-1, 1), latent_format.spacial_downscale_ratio)
        assert float(((rgb + 1) / 2 - small.movedim(1, -1)).abs().mean()) < 0.05

    def test_agrees_with_the_other_host(self, embedded, scene):
        """The same pictures through diffusers, with the same weights."""
        diffusers = pytest.importorskip("diffusers")
        assert diffusers
        from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
        from comfyui_exemplar.demo import model_path
        from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
        from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
        from comfyui_exemplar.pipelines.exemplar import colorize
        from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

        model, _, vae, empty = embedded
        settings = ColorizeSettings(
            guidance=3.0, passes=2, depth=4, resolution=64, attention=DualAttentionSettings(beta_shallow=0.25)
        )
        ours = colorize(ComfyHost(model, empty, vae), *scene, settings)
        theirs = colorize(DiffusersHost(load_standalone(model_path())), *scene, settings)
        assert difference(ours.latent, theirs.latent) < 1e-4
        assert float(ab_error(ours.images, theirs.images).mean()) < 0.05
