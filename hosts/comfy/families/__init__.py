"""Families of models as ComfyUI builds them: told by what a MODEL's network is, never by a table of checkpoints.

Start at ``found.family_of``. ``unet`` reads a UNet's layers; ``flux``, ``qwen``, ``lumina``, ``sd3`` and ``anima``
each one kind of transformer. A further kind is a module with a function ``found(network)`` and a row in ``found``.
What is done within a call is in ``..transformer_calls``.
"""
