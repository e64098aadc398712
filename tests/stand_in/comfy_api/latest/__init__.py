"""Stand-in for ComfyUI's ``comfy_api.latest``: what the pack uses of it."""

from . import io


class ComfyExtension:
    """Base of a pack's entry point."""


__all__ = ["ComfyExtension", "io"]
