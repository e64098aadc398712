"""What is said about a sampler and its levels before a sampling under color injection starts.

Guidance makes the estimate stiff: it answers a color that the latent has already with about (1 - w) of it, so with few
steps it swings around the reference's colors (``sampling.limited_weight``). Samplers that extrapolate from earlier
estimates take that swing for a trend and carry it on, the further the longer a step is than the one before it; DDIM's
last step above 0 is four times as long as its neighbor. Below it the model returns colors as they are, so nothing
mends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from .inversion import Inversion

#: Weights of guidance at which ``MEASURED`` was measured.
WEIGHTS = (1.0, 3.0, 10.0)

#: How far a sampler's colors are from the true ones, as a multiple of euler's, at ``WEIGHTS``: the worst of three
#: pictures, 4 of 20 steps of the embedded model, by ``bench/samplers.py``. Names are those that ComfyUI shows.
MEASURED: dict[str, tuple[float, float, float]] = {
    "euler": (1.00, 1.00, 1.00),
    "euler_cfg_pp": (1.19, 2.51, 1.71),
    "euler_ancestral": (1.06, 1.36, 1.43),
    "euler_ancestral_cfg_pp": (1.30, 2.42, 1.82),
    "heun": (1.26, 1.03, 2.10),
    "heunpp2": (1.00, 1.02, 0.94),
    "exp_heun_2_x0": (1.02, 1.01, 0.77),
    "exp_heun_2_x0_sde": (1.05, 1.08, 0.99),
    "dpm_2": (1.45, 1.71, 5.26),
    "dpm_2_ancestral": (1.56, 4.33, 6.98),
    "lms": (1.18, 5.23, 5.59),
    "dpm_fast": (1.23, 6.28, 2.42),
    "dpm_adaptive": (1.30, 1.02, 0.73),
    "dpmpp_2s_ancestral": (1.03, 1.15, 1.82),
    "dpmpp_2s_ancestral_cfg_pp": (1.03, 1.51, 3.01),
    "dpmpp_sde": (1.05, 1.15, 1.65),
    "dpmpp_2m": (1.36, 3.85, 4.84),
    "dpmpp_2m_cfg_pp": (2.82, 9.57, 2.35),
    "dpmpp_2m_sde": (1.67, 12.66, 5.67),
    "dpmpp_2m_sde_heun": (2.20, 14.43, 5.82),
    "dpmpp_3m_sde": (5.86, 16.43, 6.50),
    "ddpm": (1.06, 1.36, 1.43),
    "lcm": (1.40, 2.49, 1.91),
    "ipndm": (1.08, 3.22, 4.13),
    "ipndm_v": (1.10, 3.21, 4.37),
    "deis": (1.19, 5.85, 5.75),
    "res_multistep": (1.53, 4.82, 5.15),
    "res_multistep_cfg_pp": (4.27, 5.43, 4.18),
    "res_multistep_ancestral": (2.21, 14.53, 5.71),
    "res_multistep_ancestral_cfg_pp": (7.85, 11.03, 3.85),
    "gradient_estimation": (1.10, 6.01, 3.50),
    "gradient_estimation_cfg_pp": (1.19, 2.28, 1.72),
    "er_sde": (1.29, 6.16, 5.84),
    "seeds_2": (1.03, 1.13, 1.67),
    "seeds_3": (1.09, 1.06, 1.80),
    "sa_solver": (1.01, 3.52, 1.68),
    "sa_solver_pece": (1.04, 0.99, 1.03),
    "uni_pc": (2.19, 10.73, 5.64),
    "uni_pc_bh2": (1.36, 6.18, 4.41),
}

#: Up to this multiple a sampler does as well as euler.
AS_GOOD = 1.3

#: Samplers that lose no more at 3 and 10 than euler does at DDIM's levels (1.2 times at most), where no level but the
#: last is below ``CLOSE`` times the one before it: measured at 0.75.
MENDED = frozenset(
    {
        "heun",
        "lms",
        "dpmpp_2m",
        "ipndm",
        "ipndm_v",
        "deis",
        "res_multistep",
        "gradient_estimation",
        "er_sde",
        "sa_solver",
        "uni_pc",
        "uni_pc_bh2",
    }
)
CLOSE = 0.74

#: At this weight and above, a step limit leaves about what this weight does.
LIMITED = 3.0


def sampler_name(function: str) -> str:
    """What ComfyUI calls a sampler in its lists, from the name of its function."""
    name = function.removeprefix("sample_").removesuffix("_function").removesuffix("_gpu")
    return name.replace("unipc", "uni_pc")


def rises(sigmas: Sequence[float]) -> bool:
    """Whether any level of a sampling is above the one before it."""
    return any(high < low for high, low in pairwise(sigmas))


def sampler_warnings(
    function: str, weight: float | None, sigmas: Sequence[float], *, step_limit: bool = False
) -> list[str]:
    """Whether a sampler is known to lose the colors at a weight of guidance; nothing is said of unknown ones.

    :param function: name of the sampler's function, as ``sample_euler``.
    :param weight: w; None where the guider does not say.
    :param sigmas: (T+1,) descending levels of the sampling.
    :param step_limit: whether w is held to what each step can take.
    """
    name = sampler_name(function)
    if name not in MEASURED:
        return []
    if name in MENDED and all(low >= CLOSE * high for high, low in pairwise(sigmas) if low > 0):
        return []
    if step_limit and weight is not None:
        weight = min(weight, LIMITED)
    at = next((i for i, known in enumerate(WEIGHTS) if weight is not None and weight <= known), len(WEIGHTS) - 1)
    ratio = MEASURED[name][at]
    if ratio <= AS_GOOD:
        return []
    help_ = ", or set closer_sigmas of DDIM Inversion to 0.75" if name in MENDED else ""
    return [
        f"the sampler {name} misses the colors by up to {ratio:.1f} times as much as euler (measured at a guidance of "
        f"{WEIGHTS[at]:g} and few steps). Take euler, ddim or heunpp2{help_}."
    ]


def level_warnings(sigmas: Sequence[float], kept: Sequence[float], latent_level: float | None) -> list[str]:
    """Whether the levels of a sampling fit the latents that it starts from, and end where nothing is left of the noise.

    :param sigmas: (T+1,) descending levels of the sampling.
    :param kept: levels of the inversion, highest first.
    :param latent_level: how much of the inversion's noise the latents have, as a sigma; None where noise is added.
    """
    if len(sigmas) < 2:
        return []
    if rises(sigmas):
        return [
            "the sigmas rise (FlipSigmas, a restarting schedule), so the picture is noised under the reference's "
            "colors. Noise it with DDIM Inversion, and inject on the way back only."
        ]
    warnings = []
    first, last, top = sigmas[0], sigmas[-1], kept[0]
    # a sampling that goes on where another one stopped begins lower, and so do its latents
    if (
        latent_level is not None
        and abs(first - top) > 0.02 * top
        and abs(latent_level - top) < abs(latent_level - first)
    ):
        left = "noise stays in" if first < top else "the picture is smoothed away"
        warnings.append(
            f"the sampler begins at sigma {first:.3f}, but the latent was noised to {top:.3f}, so {left}. Use the "
            "sigmas output of DDIM Inversion, or ddim_uniform with the same steps."
        )
    if last > kept[-1] * 1.02:
        warnings.append(
            f"the sampler stops at sigma {last:.3f}, the inversion began below {kept[-1]:.3f}: noise stays in, unless "
            "another sampler goes on from there."
        )
    return warnings


def latent_level(inversion: Inversion, latents: Tensor) -> float:
    """How much of an inversion's noise latents have, as a sigma: 0 for the clean ones, the top level for noised ones.

    What else is in the latents, such as colors that they got on the way, hardly looks like that noise.

    :param latents: (a multiple of B, C, h, w), in the model's latent scale.
    """
    clean = inversion.trajectory[0].float()
    noise = inversion.given().float() - clean
    rows = [i % len(clean) for i in range(len(latents))]
    clean, noise = clean[rows], noise[rows]
    share = float(((latents.to(clean) - clean) * noise).sum() / noise.square().sum())
    top = inversion.plan.sigmas[0]
    if not inversion.plan.flow:
        return share * top
    # as given, latents at time t are x0 + t / (1 - t) · noise
    spread = max(share, 0.0) * top / (1 - top)
    return spread / (1 + spread)
