"""What a user can choose of films."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..settings import Settings, setting, share
from .frame_numbers import listed_frames, listed_starts
from .memory_settings import MemorySettings


@dataclass(frozen=True)
class ShotSettings(Settings):
    """Where shots begin, and which of them are in color already."""

    cuts: str = setting(
        "",
        "Numbers of the frames at which shots begin, counted from 0 and separated by commas, such as 120, 388. Empty "
        "looks for cuts; 0 takes the whole film as one shot.",
        advanced=True,
    )
    sensitivity: float = share(
        0.5,
        "How little must change for a cut. Low finds cuts between unlike pictures only; high also those between "
        "similar ones, and may cut at fast motion.",
    )
    dissolves: bool = setting(
        True,
        "On, a dissolve or a fade is a cut, too, in its middle. Off, only hard cuts are.",
        advanced=True,
    )
    shortest: int = setting(
        8,
        "Fewest frames of a shot. What is over sooner, such as a flash, is part of the shot around it. Low finds quick "
        "cuts; high keeps whole what flickers.",
        low=1,
        high=1000,
        advanced=True,
    )
    colored_above: float = setting(
        3.0,
        "Chroma (CIE Lab) beyond an even tint above which a frame is in color already. Low takes faded color for "
        "color; high also colors what has some.",
        low=0.0,
        high=50.0,
        step=0.5,
        round=0.01,
        advanced=True,
    )

    @property
    def listed(self) -> tuple[int, ...]:
        """The frames at which shots begin, ascending, 0 first; () where cuts are to be looked for.

        :raises ValueError: something else than numbers of frames.
        """
        return listed_starts(self.cuts)


@dataclass(frozen=True)
class FilmSettings(Settings):
    """How a film is colored. How its memory is asked is the memory's own settings'."""

    shots: ShotSettings = field(default_factory=ShotSettings)
    asking: MemorySettings = field(default_factory=MemorySettings)
    steadiness: float = share(
        0.94,
        "How much color is carried from frame to frame along the motion. 0 colors every frame by itself, which "
        "flickers; high is steady, and takes longer to correct what was wrong in the frames around.",
        high=0.99,
    )
    key_reach: int = setting(
        50,
        "How far a key frame reaches, in frames: so far from it, it counts about a third. Low lets near ones decide; "
        "high blends all of a shot's, past and future, by how well they match.",
        low=1,
        high=100_000,
        advanced=True,
    )
    key_weight: float = setting(
        4.0,
        "How much a key frame counts beside the references, at its own place. Low mixes both; high keeps to key frames "
        "wherever they show the thing.",
        low=0.01,
        high=1000.0,
        step=0.5,
        round=0.01,
        advanced=True,
    )
    key_method: Literal["none", "thorough"] = setting(
        "none",
        "For shots without a key frame, beside references: none colors all frames by the references alone, which is "
        "fastest and kept more color where measured. thorough first colors the shot's surest frame by the thorough "
        "method and carries its colors over the shot, which takes that method's time once a shot, and is often paler.",
    )
    in_color: Literal["keep", "recolor"] = setting(
        "keep",
        "What becomes of shots that are in color already: keep leaves their pixels alone, recolor colors them like the "
        "others.",
    )
    ahead: int = setting(
        20,
        "How many frames after a frame count for its color. Low takes less memory; high is steadier where color is "
        "known later only.",
        low=0,
        high=500,
        advanced=True,
    )


@dataclass(frozen=True)
class VideoFileSettings(Settings):
    """How a film is read and where it goes, for nodes."""

    filename_prefix: str = setting(
        "video/colored",
        "Name of the film within ComfyUI's output folder; a number is put behind it, so that no file is replaced. A "
        "run that was canceled is gone on with at the first shot that is not whole.",
    )
    codec: Literal["h264", "h264-10", "hevc", "hevc-10", "prores", "prores4444", "dnxhr", "ffv1"] = setting(
        "h264",
        "What the film is written as. h264 plays everywhere and has 8 bits; h264-10 and hevc-10 have 10. prores and "
        "dnxhr are for cutting; ffv1 loses nothing and is for archives.",
    )
    deinterlace: bool = setting(
        False,
        "On, whole frames are made of the half frames of an interlaced film. Off, such a film is refused.",
        advanced=True,
    )
    key_frame_numbers: str = setting(
        "",
        "The frames that key_frames show, counted from 0 and separated by commas, such as 0, 120. One for each picture "
        "of the batch; empty without key frames.",
    )

    @property
    def numbers(self) -> tuple[int, ...]:
        """The frames of the key frames, in the order of their pictures.

        :raises ValueError: something else than numbers of frames.
        """
        return listed_frames(self.key_frame_numbers, "key_frame_numbers")
