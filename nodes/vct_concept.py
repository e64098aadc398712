"""Concept inversion: a reference picture's concept as an embedding file."""

from __future__ import annotations

import hashlib

import folder_paths
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..color import resize, to_uint8
from ..color.chart import as_image, loss_chart
from ..diffusion.concept import ConceptOptions
from ..files.embeddings import ConceptFile, check_name, embedding_path, read_concept, save_concept
from ..hosts.comfy import model as host
from ..hosts.comfy.gradients import gradients
from ..hosts.comfy.vct_concept import ConceptLearner, conditioning_of
from .common import CATEGORY_TRANSLATE, ChartProgress

CONTINUE, START_OVER = "continue", "start over"
FITS = ("crop", "squash")
#: Updates between two savings.
SAVE_EVERY = 50


class ConceptInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarConceptInversion",
            display_name="Concept Inversion",
            category=CATEGORY_TRANSLATE,
            description="Learns what a reference picture shows as a few word vectors, saved as an embedding that any "
            "prompt can name (textual inversion, multi-concept inversion of VCT). Nothing else is trained.",
            search_aliases=[
                "textual inversion",
                "train embedding",
                "vct",
                "multi-concept inversion",
                "one-shot concept",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x, 2.x or SDXL model."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE. Each distinct picture is encoded once."),
                io.Image.Input("reference", tooltip="The concept: one picture, or several of the same thing or style."),
                io.String.Input(
                    "name",
                    default="concept",
                    tooltip="Name of the file in models/embeddings. Prompts use it as embedding:name.",
                ),
                io.String.Input(
                    "word",
                    default="picture",
                    tooltip="Where the vectors start: a word for what the picture shows. A close word is learned "
                    "faster; "
                    "a vague one leaves more to learn.",
                ),
                io.Int.Input(
                    "vectors",
                    default=3,
                    min=1,
                    max=64,
                    tooltip="Few keep to the gist and combine well with other words; many hold more detail and take "
                    "over "
                    "the prompt.",
                ),
                io.Int.Input(
                    "updates",
                    default=500,
                    min=1,
                    max=100000,
                    tooltip="Optimizer steps in all. Few leave the initial word; many copy the picture. 100 to 1000 "
                    "are "
                    "usual.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=0,
                    max=2048,
                    step=8,
                    tooltip="Side of the square that the reference is scaled to: the model's native size. Low is fast "
                    "and coarse. 0 keeps the picture's own size.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=5e-4,
                    min=1e-6,
                    max=1.0,
                    step=1e-4,
                    round=False,
                    advanced=True,
                    tooltip="For one noised copy; it is multiplied by accumulation, as in the released program. Low "
                    "learns slowly, high overshoots.",
                ),
                io.Int.Input(
                    "accumulation",
                    default=4,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Noised copies an update. Few are fast and noisy; many are steady.",
                ),
                io.Float.Input(
                    "l1_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.001,
                    advanced=True,
                    tooltip="Weight of the distance between predicted and true picture beside the noise error. 0 is "
                    "plain textual inversion; high favors the noisiest steps, so composition over texture.",
                ),
                io.Float.Input(
                    "weight_decay",
                    default=0.01,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    advanced=True,
                    tooltip="Pull of the vectors toward 0. Low lets them grow; high keeps them small.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=FITS[0],
                    advanced=True,
                    tooltip="crop keeps the aspect ratio and takes the middle. squash scales both sides, as the "
                    "released "
                    "program does.",
                ),
                io.Boolean.Input(
                    "mirror",
                    default=True,
                    advanced=True,
                    tooltip="On learns from the mirror image too, as the released program does. Off keeps left and "
                    "right.",
                ),
                io.Int.Input(
                    "learning_seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    advanced=True,
                    tooltip="Of the noise that is learned from. The same value repeats a run exactly.",
                ),
                io.Int.Input(
                    "sample_every",
                    default=100,
                    min=0,
                    max=100000,
                    advanced=True,
                    tooltip="Updates between two sample pictures. Low shows more and costs 20 steps each; 0 makes only "
                    "the last.",
                ),
                io.Int.Input(
                    "rows",
                    default=4,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Noised copies in one call of the model. High is faster, low takes less memory; the result "
                    "is "
                    "the same.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    advanced=True,
                    tooltip="Off is faster. On computes activations twice instead of keeping them: much less memory, "
                    "about a third more time.",
                ),
                io.Combo.Input(
                    "when_the_file_exists",
                    options=[CONTINUE, START_OVER],
                    default=CONTINUE,
                    advanced=True,
                    tooltip="continue takes the updates that are still missing, so a canceled run is taken up again; "
                    "it "
                    "refuses a file of other settings. start over replaces the file.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="The concept as a prompt of its own."),
                io.String.Output(display_name="prompt", tooltip="embedding:name, to put into any prompt."),
                io.Image.Output(display_name="losses", tooltip="Loss of every update."),
                io.Image.Output(display_name="samples", tooltip="What the model drew on the way, first to last."),
            ],
        )

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        try:
            if name is not None:
                check_name(name)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        reference,
        name,
        word,
        vectors,
        updates,
        resolution,
        learning_rate=5e-4,
        accumulation=4,
        l1_weight=1.0,
        weight_decay=0.01,
        fit=FITS[0],
        mirror=True,
        learning_seed=0,
        sample_every=100,
        rows=4,
        gradient_checkpointing=False,
        when_the_file_exists=CONTINUE,
    ) -> io.NodeOutput:
        host.require_unet(model, "Concept Inversion")
        path = embedding_path(folder_paths.get_folder_paths("embeddings")[0], name)
        pictures = prepared(reference, resolution, fit, vae.spacial_compression_encode(), mirror)
        options = ConceptOptions(
            updates=updates,
            learning_rate=learning_rate,
            accumulation=accumulation,
            l1_weight=l1_weight,
            weight_decay=weight_decay,
            rows=rows,
        )
        options.check()
        settings = {
            "model": host.fingerprint(model),
            "word": word,
            "vectors": vectors,
            "pictures": digest(pictures),
            "learning_rate": learning_rate,
            "accumulation": accumulation,
            "l1_weight": l1_weight,
            "weight_decay": weight_decay,
            "seed": learning_seed,
        }
        earlier = None
        if path.exists() and when_the_file_exists == CONTINUE:
            earlier = matching(path, settings)
        latents = model.model.process_latent_in(torch.cat([vae.encode(p[None]) for p in pictures]))

        losses = list(earlier.losses) if earlier else []
        samples: list[Tensor] = []
        with gradients():
            learner = ConceptLearner(
                model, clip, latents, word, vectors, options, learning_seed, gradient_checkpointing
            )
            reached = ConceptFile(learner.text.names, earlier.state if earlier else learner.start(), settings, losses)

            def chart() -> Image.Image:
                title = f"concept inversion, update {len(losses)} of {updates}"
                drawn = loss_chart(title, {"loss": losses, "mean of 20": smoothed(losses)}, length=updates)
                return beside(drawn, samples[-1]) if samples else drawn

            def sample() -> None:
                latent = learner.sample(reached.state)
                with torch.inference_mode():
                    samples.append(vae.decode(model.model.process_latent_out(latent)).cpu())

            def save() -> None:
                if reached.state.updates > saved[0]:  # of 0 updates there is nothing to keep
                    save_concept(path, reached)
                    saved[0] = reached.state.updates

            def on_update(progress) -> None:
                nonlocal reached
                losses.append(progress.loss)
                reached = ConceptFile(reached.encoders, progress.state, settings, losses)
                done = progress.state.updates
                if done % SAVE_EVERY == 0:
                    save()
                bar(done)
                if sample_every and done % sample_every == 0 and done < updates:
                    sample()

            saved = [reached.state.updates]
            bar = ChartProgress(updates, chart)
            try:
                bar(reached.state.updates)
                learner.learn(reached.state, on_update)
            finally:  # canceled too: what has been learned so far is kept, and can be taken up again
                save()
            sample()
            tokens = learner.text.tokens(reached.state.vectors)
            picture = as_image(loss_chart(f"concept inversion, {len(losses)} updates", {"loss": losses}))
        return io.NodeOutput(conditioning_of(clip, tokens), f"embedding:{name}", picture, torch.cat(samples))


def prepared(image: Tensor, resolution: int, fit: str, factor: int, mirror: bool) -> Tensor:
    """(P, H, W, 3): the distinct pictures among the reference and, if wanted, its mirror images."""
    image = image[..., :3].float()
    if fit == "crop" and resolution:
        side = min(image.shape[1:3])
        top, left = ((length - side) // 2 for length in image.shape[1:3])
        image = image[:, top : top + side, left : left + side]
    if resolution:
        side = max(factor, resolution // factor * factor)
        image = resize(image, (side, side))
    else:
        image = image[:, : image.shape[1] // factor * factor, : image.shape[2] // factor * factor]
    found: list[Tensor] = []
    for picture in [*image, *(image.flip(2) if mirror else ())]:
        if not any(torch.equal(picture, other) for other in found):
            found.append(picture)
    return torch.stack(found)


def matching(path, settings: dict) -> ConceptFile | None:
    """The concept in a file, to go on from.

    :raises ValueError: the file is another program's, or was learned in another way.
    """
    earlier = read_concept(path)
    different = (
        "it is not Concept Inversion's"
        if earlier is None
        else ", ".join(key for key in settings if earlier.settings.get(key) != settings[key])
    )
    if different:
        raise ValueError(
            f"{path.name} in models/embeddings holds something else ({different}). Choose another name, or 'start "
            f"over' "
            "to replace it."
        )
    return earlier


def digest(pictures: Tensor) -> str:
    return hashlib.sha256(to_uint8(pictures).contiguous().cpu().numpy().tobytes()).hexdigest()[:12]


def smoothed(values: list[float], width: int = 20) -> list[float]:
    sums = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)
    return [float(sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width) for i in range(len(values))]


def beside(chart: Image.Image, sample: Tensor) -> Image.Image:
    """The chart with the latest sample at its right."""
    picture = F.interpolate(sample.movedim(-1, 1).float(), size=(chart.height, chart.height)).movedim(1, -1)[0]
    joined = Image.new("RGB", (chart.width + chart.height, chart.height))
    joined.paste(chart, (0, 0))
    joined.paste(Image.fromarray(to_uint8(picture).cpu().numpy()), (chart.width, 0))
    return joined


NODES = [ConceptInversion]
