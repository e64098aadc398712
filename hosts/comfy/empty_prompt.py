"""What a model is told where no prompt is connected: the empty one, which inversions and colorization mostly work with.

A checkpoint's own comes from its CLIP. A loader whose CLIP is part of the same file attaches it to the MODEL, so that
nothing needs to be connected.
"""

from __future__ import annotations

from typing import Any

_ATTACHMENT = "exemplar.empty_prompt"


def encoded(clip: Any) -> list:
    """The empty prompt as CLIP Text Encode gives it, pooled text included."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(""))


def attach_empty_prompt(model: Any, prompt: list) -> None:
    """Let a MODEL carry its own empty prompt (in place: the loader's own)."""
    model.set_attachments(_ATTACHMENT, prompt)


def prompt_or_empty(conditioning: list | None, clip: Any, model: Any) -> list | None:
    """The CONDITIONING that came in, else the empty prompt by a CLIP, else the one that the MODEL carries.

    :returns: a CONDITIONING, not looked at yet; None where there is none of the three.
    """
    if conditioning is not None:
        return conditioning
    if clip is not None:
        return encoded(clip)
    carried = model.get_attachment(_ATTACHMENT)
    return None if carried is None else [[context, dict(extras)] for context, extras in carried]


def need_prompt(conditioning: list | None, clip: Any, model: Any, node: str) -> list:
    """The same for a node that works under some prompt.

    :param node: display name of the asking node.
    :raises ValueError: there is no prompt, and nothing to make the empty one with.
    """
    found = prompt_or_empty(conditioning, clip, model)
    if found is None:
        raise ValueError(
            f"{node}: conditioning: found nothing, and no CLIP to encode the empty prompt with, expected one of both; "
            "connect the CLIP of the same checkpoint to clip, or a CLIP Text Encode to conditioning. A checkpoint "
            "without a CLIP gives nothing there: load the CLIP that belongs to it by Load CLIP."
        )
    return found
