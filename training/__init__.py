"""How the embedded models were made, as commands: ``python -m training fetch | prepare | autoencoder | unet | export``.

``python -m training evaluate`` (or ``make evaluate``) measures the result; :mod:`.memory_evaluate` and :mod:`.transfer`
measure color memories and transferred colors. README.md here tells the whole story.
Everything is written below ``out/training``, which git ignores; only ``demo/*.safetensors`` are committed.
"""
