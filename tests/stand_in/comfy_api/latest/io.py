"""Stand-in for ``comfy_api.latest.io``: schemas and what they are made of, with ComfyUI's attribute names."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Input:
    """An input; its type is set by the class that it belongs to."""

    io_type = ""

    def __init__(
        self, id: str, display_name: str | None = None, optional: bool = False, tooltip: str | None = None, **more: Any
    ) -> None:
        self.id, self.display_name, self.optional, self.tooltip = id, display_name, optional, tooltip
        self.advanced: bool | None = more.pop("advanced", None)
        self.extra_dict: dict[str, Any] = more.pop("extra_dict", None) or {}
        self._set(more)

    def _set(self, more: dict[str, Any], **defaults: Any) -> None:
        """Take what a class knows beyond the common.

        :raises TypeError: there is something that it does not know.
        """
        unknown = more.keys() - defaults.keys()
        if unknown:
            raise TypeError(f"The stand-in's {type(self).__qualname__} does not know {sorted(unknown)}.")
        vars(self).update(defaults | more)

    def get_io_type(self) -> str:
        return self.io_type


class WidgetInput(Input):
    """An input with a widget. The real one has more keywords; those that the pack uses are here."""

    known: dict[str, Any] = {}

    def _set(self, more: dict[str, Any], **defaults: Any) -> None:
        super()._set(more, default=None, socketless=None, force_input=None, **self.known)


class Output:
    """An output."""

    io_type = ""

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id, self.display_name, self.tooltip = id, display_name or id, tooltip
        self.is_output_list = is_output_list

    def get_io_type(self) -> str:
        return self.io_type


def _type(io_type: str, base: type[Input] = Input, **known: Any) -> Any:
    """A class with ``Input`` and ``Output``, as ComfyUI has one for each type."""
    members = {"io_type": io_type, **({"known": known} if known else {})}
    return type(
        io_type.title(),
        (),
        {
            "io_type": io_type,
            "Input": type("Input", (base,), members),
            "Output": type("Output", (Output,), {"io_type": io_type}),
        },
    )


def Custom(io_type: str) -> Any:
    return _type(io_type)


Boolean = _type("BOOLEAN", WidgetInput, label_on=None, label_off=None)
Int = _type("INT", WidgetInput, min=None, max=None, step=None, control_after_generate=None, display_mode=None)
Float = _type("FLOAT", WidgetInput, min=None, max=None, step=None, round=None, display_mode=None)
String = _type("STRING", WidgetInput, multiline=False, placeholder=None, dynamic_prompts=None)
Combo = _type("COMBO", WidgetInput, options=None, control_after_generate=None, upload=None)

Clip = Custom("CLIP")
ClipVision = Custom("CLIP_VISION")
Conditioning = Custom("CONDITIONING")
Guider = Custom("GUIDER")
Image = Custom("IMAGE")
Latent = Custom("LATENT")
Mask = Custom("MASK")
Model = Custom("MODEL")
Noise = Custom("NOISE")
Sampler = Custom("SAMPLER")
Sigmas = Custom("SIGMAS")
Vae = Custom("VAE")
Video = Custom("VIDEO")


class MultiType:
    """Sockets that take several types."""

    class Input(Input):
        """One of them."""

        def __init__(self, id: str, types: list[Any], **more: Any) -> None:
            super().__init__(id, **more)
            self._types = types

        def get_io_type(self) -> str:
            return ",".join(kind.io_type for kind in self._types)


class NumberDisplay(str, Enum):
    """How a number's widget looks."""

    number = "number"
    slider = "slider"


class ControlAfterGenerate(str, Enum):
    """What happens to a seed after a run."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class UploadType(str, Enum):
    """What a user may upload at a widget."""

    image = "image_upload"


class Hidden(str, Enum):
    """What a node may ask for beside its inputs."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass
class Schema:
    """A node's schema; fields that the pack never sets are left out."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def finalize(self) -> None:
        """Outputs without ids get ComfyUI's."""
        if self.is_output_node:
            self.hidden += [item for item in (Hidden.prompt, Hidden.extra_pnginfo) if item not in self.hidden]
        for index, output in enumerate(self.outputs):
            if output.id is None:
                output.id = f"_{index}_{output.io_type}_"

    def validate(self) -> None:
        """Ids are unique.

        :raises ValueError: two inputs or two outputs have one id.
        """
        for items in (self.inputs, self.outputs):
            ids = [item.id for item in items]
            if len(set(ids)) < len(ids):
                raise ValueError(f"{self.node_id} has an id twice: {ids}.")


class ComfyNode:
    """Base of the nodes."""

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema


class NodeOutput:
    """What a node returns; no node runs here."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.args, self.more = args, more
