"""What is read from disk and written to it, and how it is checked. Weights are plain tensors, never code.

Start at :mod:`.tensors` (weights from one file or a folder) and :mod:`.pictures`. :mod:`.headers` reads what a file
says of itself, its recommended settings among it; behind both :mod:`.layout` reads safetensors, :mod:`.pickles` the
others, :mod:`.plain_json` and :mod:`.fields` judge what is said, :mod:`.numbers` judges weights. :mod:`.ldm` reads
sizes off checkpoints in LDM naming; :mod:`.embeddings` keeps learned word vectors.

Behind :mod:`.pictures`: :mod:`.tiff` (with :mod:`.tiff_tags` and :mod:`.tiff_strips`), :mod:`.raster_formats` (what
Pillow decodes; :mod:`.png` has what it halves), :mod:`.deep`, :mod:`.exr` and :mod:`.netpbm` make a
:class:`.raster.Raster` of a page; :mod:`.profiles` turns it into sRGB; :mod:`.capture` and :mod:`.photographs` hold
what the file said; :mod:`.saving` writes. :mod:`.masks` reads masks. :mod:`.output` gives files their names when they
are whole and tries places before work, :mod:`.writers` keeps several writers apart and cleans up after them, and
:mod:`.owned` leaves what somebody else made.
"""
