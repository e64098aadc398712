"""Contact sheets: what a run did, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .exemplar import ColorizeResult
    from .exemplar_references import References
    from .transfer import TransferResult

#: References, or sources of a memory, that are shown.
MOST_SOURCES = 12


def contact_sheet(image: Tensor, reference: Tensor, result: ColorizeResult, height: int = 256) -> Tensor:
    """Input, reference, result, where one place of the input looks, and the reference carried over: (1, h, w, 3)."""
    from ..color import desaturate
    from ..color.heat import side_by_side
    from .attention_map import attention_maps

    maps = attention_maps(result.source, result.reference.gray, image, reference)
    columns = [
        ("input", desaturate(image)),
        ("reference", reference),
        ("result", result.images.cpu()),
        ("attention: from the ring to the bright places", maps.shown),
        ("reference carried over by attention", maps.carried),
    ]
    shown = []
    for label, picture in columns:
        shown.append(labeled(scaled(picture, height), label))
    return side_by_side(shown, gap=6)


def sheet_of_several(image: Tensor, references: References, result: ColorizeResult, height: int = 256) -> Tensor:
    """The same where several references serve every input: (1, h, w, 3).

    Beside input and result, each reference is shown with the attention that the ring pays to it.
    """
    from ..color import desaturate
    from ..color.heat import side_by_side
    from .attention_map import attention_maps_of_several

    maps = attention_maps_of_several(
        result.source,
        [part.gray for part in result.reference.parts],
        image,
        references.pictures,
        masks=references.masks,
        weights=references.weights,
    )
    columns = [("input", desaturate(image)), ("result", result.images.cpu())]
    for number, reference in enumerate(references.pictures[:MOST_SOURCES], 1):
        columns.append((f"reference {number}", reference))
        columns.append(("attention: from the ring to the bright places", maps[number - 1].shown))
    if len(references) > MOST_SOURCES:
        columns.append((f"and {len(references) - MOST_SOURCES} more", torch.full((1, height, height, 3), 0.9)))
    columns.append(("references carried over by attention", maps[0].carried))
    return side_by_side([labeled(scaled(picture, height), label) for label, picture in columns], gap=6)


def memory_sheet(
    image: Tensor,
    images: Tensor,
    confidence: Tensor,
    source: Tensor,
    sources: Sequence[tuple[str, Tensor | None]],
    others: Sequence[tuple[str, Tensor]] = (),
    height: int = 256,
) -> Tensor:
    """Input, result, how sure the memory is, where its colors come from, and its sources: (1, h, w, 3).

    :param image: (1, H, W, 3), the input; ``images`` the result.
    :param confidence: (1, H, W); ``source`` (1, H, W) int64, which of the sources gives most.
    :param sources: name and small picture of each, None where there is none; a band in the color of its places is
        above the name.
    :param others: captions and pictures of what has no places, such as a palette.
    """
    from ..color import desaturate
    from ..color.heat import over_picture, side_by_side
    from .memory import source_picture

    gray = desaturate(image)
    columns = [
        labeled(scaled(picture, height), label)
        for label, picture in (
            ("input", gray),
            ("result", images.cpu()),
            ("confidence: dark is unsure", over_picture(gray, confidence)),
            ("source: in the colors of the bands", source_picture(gray, source)),
            *others,
        )
    ]
    for number, (name, picture) in enumerate(sources[:MOST_SOURCES]):
        small = torch.full((1, height, height, 3), 0.9) if picture is None else scaled(picture, height)
        band = source_picture(torch.full((1, 10, small.shape[2], 3), 0.6), torch.full((1, 10, small.shape[2]), number))
        columns.append(labeled(torch.cat([small[:, :-10], band], 1), name))
    if len(sources) > MOST_SOURCES:
        more = torch.full((1, height, height, 3), 0.9)
        columns.append(labeled(more, f"and {len(sources) - MOST_SOURCES} more"))
    return side_by_side(columns, gap=6)


def transfer_sheet(original: Tensor, edited: Tensor, result: TransferResult, height: int = 256) -> Tensor:
    """Original, edit, result, the edit laid on the original, how far it was off, and how sure that is: (1, h, w, 3).

    :param original: (1, H, W, 3); ``edited`` (1, *, *, 3).
    """
    from ..color import desaturate
    from ..color.heat import displacement_picture, over_picture, side_by_side

    farthest = float(result.displacement.norm(dim=-1).max())
    small = scaled(original, height)  # first of all: originals may be huge
    sure = scaled(result.confidence.cpu()[..., None], height)[..., 0]
    moved = F.interpolate(result.displacement.cpu().movedim(-1, 1), tuple(small.shape[1:3]), mode="area").movedim(1, -1)
    columns = [
        ("original", small),
        ("edit", scaled(edited, height)),
        ("result", scaled(result.images.cpu(), height)),
        ("edit, laid on the original", scaled(result.aligned.cpu(), height)),
        (f"displacement: gray is none, up to {farthest:.1f} px", displacement_picture(moved)),
        ("confidence: dark is unsure", over_picture(desaturate(small), sure)),
    ]
    return side_by_side([labeled(picture, label) for label, picture in columns], gap=6)


def scaled(picture: Tensor, height: int) -> Tensor:
    """A picture, (1, H, W, 3), at another height."""
    from ..color import resize

    return resize(picture, (height, max(1, round(picture.shape[2] * height / picture.shape[1]))))


def labeled(picture: Tensor, label: str) -> Tensor:
    """A caption below the picture."""
    import numpy as np
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (picture.shape[2], 18), "white")
    ImageDraw.Draw(strip).text((2, 3), label, fill="black")
    caption = torch.from_numpy(np.asarray(strip).astype(np.float32) / 255)[None]
    return torch.cat([picture, caption], dim=1)
