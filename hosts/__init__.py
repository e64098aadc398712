"""Two programs that run diffusion models, behind one contract: ComfyUI, and diffusers without it.

The contract is :mod:`..pipelines.host`. :mod:`.comfy` serves the nodes, :mod:`.diffusers` the command line. They never
import each other.
"""
