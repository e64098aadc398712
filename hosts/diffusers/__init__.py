"""diffusers: the same contract without ComfyUI, for the command line, the demo and most tests.

Start at :mod:`.checkpoint` (a file as a standalone model), :mod:`.denoiser` (its UNet as a denoiser that edits can be
put into) and :mod:`.host` (the contract of the pipelines). :mod:`.ldm`, :mod:`.layers` and :mod:`.text_encoders`
translate between names, :mod:`.codecs` between pictures and latents. :mod:`.encoder` is a vision encoder that
transformers runs, for color memories. A file named after a system is that system here.
"""
