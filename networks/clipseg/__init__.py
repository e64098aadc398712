"""CLIPSeg (Lüddecke and Ecker, CVPR 2022): masks from words, on transformers. Start at :mod:`.load`."""
