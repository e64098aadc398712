"""ComfyUI: a MODEL as a denoiser that edits can be put into, and the pack's own networks under its model manager.

Start at :mod:`.model` (a MODEL as a denoiser), :mod:`.edits` (attention edits in a clone of it: the one way in) and
:mod:`.host` (the contract of the pipelines). How edits meet a call of the UNet is in :mod:`.calls`, whose rows they
find there in :mod:`.rows`, what is said of it in :mod:`.runs`, what guidance does not compute twice in :mod:`.sharing`,
and what they hold on the device in :mod:`.room`.
:mod:`.managed` and :mod:`.folders` are what every network of the pack's own needs, :mod:`.recommended` what a MODEL
says of itself, :mod:`.sampling` and :mod:`.gradients` how it is run. :mod:`.photographs` and :mod:`.embeddings` are
ComfyUI's own folders of those, :mod:`.output` names in its output folder, :mod:`.changes` whether a file is still the
one that was read, :mod:`.downloads` what the owner lets be fetched. :mod:`.doctor` and :mod:`.front_end` are what the
doctor asks.

:mod:`.color_memories` writes and asks color memories; :mod:`.encoders` says what gives them features: a MODEL, or a
CLIP_VISION.

Whether what comes in goes together says :mod:`.fits` (a VAE, a LATENT, an INVERSION of a MODEL), with :mod:`.latents`
and :mod:`.conditioning`, and of a run that begins :mod:`.sampling_checks`; :mod:`.prompt_rows` knows which prompt is
for which picture. A file named after a system is that system here.
"""
