"""Films, read frame by frame and written shot by shot. PyAV is imported where it is used; ComfyUI brings it.

Start at :mod:`.reading` (a file's frames, frame-accurate and in bounded memory) and :mod:`.output` (segments and a
journal beside the output, so that a run goes on after a kill). :mod:`.facts` says what a film is, and what is assumed
where its file says nothing; :mod:`.containers` opens files and nothing but files; :mod:`.pixels` makes pictures of a
decoder's frames; :mod:`.decoding` finds a frame by its number. :mod:`.codecs` is the table of what is written,
:mod:`.encoding` gives pictures to an encoder, :mod:`.segments` keeps its packets, :mod:`.journal` knows which shots
are whole, :mod:`.muxing` puts all of it into one file, with the film's sound; :mod:`.pictures` writes folders of
pictures.
"""

from .codecs import CODECS, FilmCodec
from .facts import FilmFacts, FilmFrame
from .output import FilmOutput, ShotWriter
from .reading import Film, open_film

__all__ = ["CODECS", "Film", "FilmCodec", "FilmFacts", "FilmFrame", "FilmOutput", "ShotWriter", "open_film"]
