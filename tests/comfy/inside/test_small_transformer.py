"""The small transformer that ``training`` makes: ComfyUI's own class runs its weights."""

import comfy.ldm.flux.model
import comfy.ops
import torch

from comfyui_exemplar.training.dit import SIZES, DiT

#: What ComfyUI's class has beside the sizes: no blocks apart, no guidance, no pooled prompt.
NONE = {"vec_in_dim": None, "depth": 0, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": []}


def test_comfys_class_gives_the_same_velocities():
    torch.manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        ours = DiT().eval()
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
        theirs = comfy.ldm.flux.model.Flux(
            **SIZES, **NONE, dtype=torch.float32, operations=comfy.ops.disable_weight_init
        )
        theirs.load_state_dict(ours.state_dict(), strict=True)
        latents, context = torch.randn(2, 4, 12, 8), torch.randn(2, 8, 128)
        times = torch.tensor([0.1, 0.7])
        found, expected = theirs(latents, times, context), ours(latents, times, context)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
