"""A whole L-CAD checkpoint at small size, under the published names, for tests of loaders."""

import torch

#: Sizes of the text encoder.
WIDTH, LAYERS, VOCABULARY = 48, 1, 49408


def small_checkpoint(tiny, seed=0):
    """The recorded set's tiny weights with the parts that it leaves out: text encoder, ordinary encoder, schedule.

    :param tiny: UNet, gray encoder and decoder under their published names.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 0.05

    made = dict(tiny)
    gray, ordinary = "first_stage_model.g_encoder.", "first_stage_model.encoder."
    for name, tensor in tiny.items():
        if name.startswith(gray) and "zero_conv" not in name:
            made[ordinary + name.removeprefix(gray)] = random(*tensor.shape)
    made |= {
        f"first_stage_model.quant_conv.{name}": random(*shape)
        for name, shape in (("weight", (8, 8, 1, 1)), ("bias", (8,)))
    }
    made |= {"betas": random(1000), "logvar": random(1000)}
    text = "cond_stage_model.transformer.text_model."
    made[f"{text}embeddings.position_ids"] = torch.arange(77)[None]
    made[f"{text}embeddings.token_embedding.weight"] = random(VOCABULARY, WIDTH)
    made[f"{text}embeddings.position_embedding.weight"] = random(77, WIDTH)
    norms, squares = ["final_layer_norm"], []
    for layer in range(LAYERS):
        inside = f"encoder.layers.{layer}."
        norms += [f"{inside}layer_norm{i}" for i in (1, 2)]
        squares += [f"{inside}self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        for name, shape in (("fc1", (4 * WIDTH, WIDTH)), ("fc2", (WIDTH, 4 * WIDTH))):
            made[f"{text}{inside}mlp.{name}.weight"] = random(*shape)
            made[f"{text}{inside}mlp.{name}.bias"] = random(shape[0])
    for name in norms:
        made |= {f"{text}{name}.weight": 1 + random(WIDTH), f"{text}{name}.bias": random(WIDTH)}
    for name in squares:
        made |= {f"{text}{name}.weight": random(WIDTH, WIDTH), f"{text}{name}.bias": random(WIDTH)}
    return made
