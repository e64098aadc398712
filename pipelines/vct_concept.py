"""Concept inversion as a user runs it: pictures made ready, learning that is saved on the way and taken up again.

    reference --cut, scaled, mirrored, distinct--> pictures --encode--> latents --learn--> embedding file
                                                             every so often: file, sample picture

The search itself is ``diffusion.concept``; the file's form ``files.embeddings``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import resize, to_uint8
from ..color.chart import loss_chart
from ..diffusion.concept import ConceptOptions, ConceptProgress, ConceptState
from ..diffusion.learning import GradientSettings
from ..files.embeddings import ConceptFile, read_concept, save_concept
from ..files.owned import OwnPlace
from ..settings import setting

if TYPE_CHECKING:
    from PIL.Image import Image

#: Updates between two savings.
SAVE_EVERY = 50
#: Who makes the files, for messages.
MAKER = "Concept Inversion"

#: ``learn(state, on_update) -> last state``: takes the updates that are missing; what ``on_update`` raises ends it.
Learn = Callable[[ConceptState, Callable[[ConceptProgress], None]], ConceptState]


@dataclass(frozen=True)
class LearningSettings(GradientSettings):
    """What learning a concept can choose, wherever it is learned."""

    word: str = setting(
        "picture",
        "Where the vectors start: a word for what the reference shows. A close word is learned faster; a vague one "
        "leaves more to learn. Several tokens are spread over the vectors.",
    )
    vectors: int = setting(
        3,
        "How many vectors the concept has, learned or given. Few keep to the gist and combine well with other words; "
        "many hold more detail and take over the prompt. The text encoder's length is the most.",
        low=1,
        high=64,
    )
    concept: ConceptOptions = field(default_factory=ConceptOptions)
    seed: int = setting(
        0,
        "Seed of the noise that is learned from. The same value repeats a run exactly.",
        low=0,
        high=2**32 - 1,
        advanced=True,
        widget="learning_seed",
    )


@dataclass(frozen=True)
class ConceptInversionSettings(LearningSettings):
    """Everything that a user of concept inversion can choose."""

    name: str = setting(
        "concept",
        "Name of the file in models/embeddings: letters, digits, '-', '_', '.'. Prompts use it as embedding:name.",
    )
    resolution: int = setting(
        512,
        "Side of the square that the reference is scaled to: the model's native size is best. Low is fast and coarse. "
        "0 keeps the picture's own size.",
        low=0,
        high=2048,
        step=8,
        auto=True,
    )
    fit: Literal["crop", "squash"] = setting(
        "crop",
        "crop keeps the aspect ratio and takes the middle; squash scales both sides, as the released program does.",
        published="squash",
        advanced=True,
    )
    mirror: bool = setting(
        True,
        "On learns from the mirror image too, as the released program does. Off keeps left and right.",
        advanced=True,
    )
    sample_every: int = setting(
        100,
        "Updates between two sample pictures. Low shows more and costs 20 steps each; 0 makes only the last.",
        low=0,
        high=100000,
        advanced=True,
    )
    when_the_file_exists: Literal["continue", "start over"] = setting(
        "continue",
        "continue takes the updates that are still missing, so a canceled run is taken up again; it refuses a file of "
        "other settings. start over replaces it. A file of another program is never replaced.",
        advanced=True,
    )


def training_pictures(reference: Tensor, settings: ConceptInversionSettings, factor: int) -> Tensor:
    """What is learned from: the distinct pictures of a reference and, if wanted, their mirror images.

    :param reference: (B, H, W, 3 or more) in 0..1.
    :param factor: pixels a latent covers, of which sides are multiples.
    :returns: (P, h, w, 3), float32.
    """
    image, resolution = reference[..., :3].float(), settings.resolution
    if settings.fit == "crop" and resolution:
        side = min(image.shape[1:3])
        top, left = ((length - side) // 2 for length in image.shape[1:3])
        image = image[:, top : top + side, left : left + side]
    if resolution:
        side = max(factor, resolution // factor * factor)
        image = resize(image, (side, side))
    else:
        image = image[:, : image.shape[1] // factor * factor, : image.shape[2] // factor * factor]
    distinct: list[Tensor] = []
    for picture in [*image, *(image.flip(2) if settings.mirror else ())]:
        if not any(torch.equal(picture, other) for other in distinct):
            distinct.append(picture)
    return torch.stack(distinct)


def provenance(settings: ConceptInversionSettings, pictures: Tensor, fingerprint: str) -> dict[str, Any]:
    """What a concept is learned from and how, as its file says it; learning goes on only where all of it agrees.

    :param pictures: (P, H, W, 3), see :func:`training_pictures`.
    :param fingerprint: of the model.
    """
    options = asdict(settings.concept)
    return {
        "model": fingerprint,
        "word": settings.word,
        "vectors": settings.vectors,
        "pictures": _digest(pictures),
        **{name: options[name] for name in ("learning_rate", "accumulation", "l1_weight", "weight_decay")},
        "seed": settings.seed,
    }


def earlier_concept(place: OwnPlace, settings: ConceptInversionSettings, origin: dict[str, Any]) -> ConceptFile | None:
    """The concept in a file, to go on from; None where there is no file, or where it is to be replaced.

    :param origin: see :func:`provenance`.
    :raises ValueError: the file was learned in another way.
    """
    path = place.path
    if not path.exists() or settings.when_the_file_exists == "start over":
        return None
    earlier = read_concept(path)
    said = earlier.settings if earlier is not None else {}
    different = ", ".join(key for key in origin if said.get(key) != origin[key])
    if different:
        raise ValueError(
            f"{path.name} in models/embeddings holds something else ({different}). Choose another name, or 'start "
            "over' to replace it."
        )
    return earlier


@dataclass(eq=False)
class ConceptRun:
    """One run of concept inversion: what is learned so far. It lives as long as the node or command that made it.

    :param place: of the embedding file.
    :param concept: what the file holds, or will hold.
    :param samples: what the model drew on the way, (1, H, W, 3) each.
    """

    place: OwnPlace
    concept: ConceptFile
    settings: ConceptInversionSettings
    samples: list[Tensor] = field(default_factory=list)

    @property
    def updates(self) -> int:
        """How many were taken."""
        return self.concept.state.updates

    def learn(
        self, learn: Learn, draw: Callable[[ConceptState], Tensor], on_update: Callable[[ConceptRun], None]
    ) -> None:
        """Take the missing updates, saving on the way, at the end, and when it is stopped.

        A file that somebody else has written in the meantime stays; what was learned so far gets another name, and
        learning ends.

        :param draw: a state -> a sample picture, (1, H, W, 3).
        :param on_update: called before the first update and after every one; what it raises ends learning.
        :raises ValueError: somebody else has written the file in the meantime.
        :raises OSError: it cannot be written.
        """
        saved = self.updates

        def save() -> None:
            nonlocal saved
            if self.updates > saved:  # of no updates there is nothing to keep
                saved = self.updates
                self.place.write(lambda path, new: save_concept(path, self.concept, new=new))

        def advance(progress: ConceptProgress) -> None:
            self.concept.losses.append(progress.loss)
            self.concept = replace(self.concept, state=progress.state)
            if self.updates % SAVE_EVERY == 0:
                save()
            on_update(self)
            every, last = self.settings.sample_every, self.settings.concept.updates
            if every and self.updates % every == 0 and self.updates < last:
                self.samples.append(draw(self.concept.state))

        try:
            on_update(self)
            learn(self.concept.state, advance)
        finally:  # canceled too: what has been learned so far is kept, and can be taken up again
            save()
        self.samples.append(draw(self.concept.state))

    def chart(self) -> Image:
        """Losses so far, with the latest sample at their right."""
        losses, updates = self.concept.losses, self.settings.concept.updates
        title = f"concept inversion, update {len(losses)} of {updates}"
        drawn = loss_chart(title, {"loss": losses, "mean of 20": _smoothed(losses)}, length=updates)
        return _beside(drawn, self.samples[-1]) if self.samples else drawn

    def losses_chart(self) -> Image:
        """Losses of all updates."""
        losses = self.concept.losses
        return loss_chart(f"concept inversion, {len(losses)} updates", {"loss": losses})


def _digest(pictures: Tensor) -> str:
    return hashlib.sha256(to_uint8(pictures).contiguous().cpu().numpy().tobytes()).hexdigest()[:12]


def _smoothed(values: list[float], width: int = 20) -> list[float]:
    """Means over the last ``width`` values."""
    sums = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)
    return [float(sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width) for i in range(len(values))]


def _beside(chart: Image, sample: Tensor) -> Image:
    """A chart with a sample (1, H, W, 3) at its right."""
    from PIL import Image

    picture = F.interpolate(sample.movedim(-1, 1).float(), size=(chart.height, chart.height)).movedim(1, -1)[0]
    joined = Image.new("RGB", (chart.width + chart.height, chart.height))
    joined.paste(chart, (0, 0))
    joined.paste(Image.fromarray(to_uint8(picture).cpu().numpy()), (chart.width, 0))
    return joined
