"""A VIDEO that was made of pictures (Create Video) as a film: no encoder stands between, so nothing is lost."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...color import resize
from ...color.registration import frame_of
from ...files.films.facts import FilmFacts, FilmFrame

if TYPE_CHECKING:
    from av.container import InputContainer

#: By the number of channels, as FFmpeg calls them.
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


class PicturesFilm:
    """Pictures at hand as a film that is read frame by frame; it holds nothing that the VIDEO does not hold.

    :param images: (N, H, W, 3 or more) in 0..1; channels behind the third are left out.
    :param rate: frames a second, to the thousandth, as ComfyUI writes it.
    :param bits: that the VIDEO is to be written with.
    """

    def __init__(self, images: Tensor, rate: Fraction, bits: int) -> None:
        rate = Fraction(round(rate * 1000), 1000)
        #: What went wrong in reading: nothing can.
        self.notes: list[str] = []
        self.images = images
        self.facts = FilmFacts(
            width=images.shape[2],
            height=images.shape[1],
            frames=len(images),
            rate=rate,
            time_base=1 / rate,
            bits=bits,
            matrix="rgb",
            full_range=True,
            primaries="bt709",
            transfer="iec61966-2-1",
        )

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[FilmFrame]:
        """The frames from one number up to another, without that."""
        last = len(self.images) if stop is None else min(stop, len(self.images))
        for number in range(start, last):
            yield FilmFrame(number, number, 1, self._picture(number))

    def small(self, longest: int) -> Iterator[FilmFrame]:
        """All frames with the longest side at most that long."""
        size = frame_of(self.facts.height, self.facts.width, longest)
        for number in range(len(self.images)):
            yield FilmFrame(number, number, 1, resize(self._picture(number)[None], size)[0])

    def _picture(self, number: int) -> Tensor:
        return self.images[number, ..., :3].detach().cpu().float().clamp(0, 1)

    def identity(self) -> str:
        """What tells these pictures, and their sound, from others."""
        made = hashlib.sha256(f"{tuple(self.images.shape)} {self.images.dtype} {self.facts.rate}".encode())
        for picture in self.images:  # one at a time: a copy of all may be too much
            made.update(picture.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return f"pictures, {made.hexdigest()[:16]}"


class SoundedPictures(PicturesFilm):
    """The same with sound, which is encoded once, when it is asked for.

    :param sound: (C, S) in -1..1, ``sampled`` times a second; what lasts longer than the pictures is left out.
    :param codec: FFmpeg's encoder of sound.
    """

    #: The film's time 0 in the time base, and the part that is read: all of it.
    origin, window, is_cut = 0, (0, None), False

    def __init__(self, images: Tensor, rate: Fraction, bits: int, sound: Tensor, sampled: int, codec: str) -> None:
        super().__init__(images, rate, bits)
        assert self.facts.rate is not None
        layout = _LAYOUTS.get(len(sound), "stereo")
        last = math.ceil(sampled / self.facts.rate * len(images))
        self._sound, self._sampled, self._codec = sound[: 6 if layout == "5.1" else 2, :last], sampled, codec
        self._layout, self._file = layout, b""

    @contextmanager
    def opened(self) -> Iterator[InputContainer]:
        """FFmpeg's view of the sound."""
        import av

        self._file = self._file or self._encoded()
        with av.open(io.BytesIO(self._file), "r") as container:
            yield container

    def _encoded(self) -> bytes:
        import av

        file = io.BytesIO()
        with av.open(file, "w", format="mov", options={"fflags": "+bitexact"}) as container:
            stream: Any = container.add_stream(self._codec, rate=self._sampled, layout=self._layout)
            samples = self._sound.detach().float().cpu().contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts = self._sampled, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file.getvalue()

    def identity(self) -> str:
        """What tells these pictures, and their sound, from others."""
        sound = hashlib.sha256(self._sound.detach().float().cpu().contiguous().numpy().tobytes())
        return f"{super().identity()}, sound {sound.hexdigest()[:16]}"
