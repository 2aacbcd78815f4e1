"""Fixtures for `sampler` and `canvas::noise`, from diffusers and from a second implementation of Philox.

    pip install --no-deps k-diffusion
    python tests/make_fixtures/make_sampler_fixtures.py

Writes tests/fixtures/sampler/{defaults.json,timesteps.json,flow.json,abar.safetensors}, {trajectories,flow_trajectories,
pixart_trajectories,solver_trajectories,few_step_trajectories,k_diffusion_trajectories}.json and .safetensors there,
and tests/fixtures/noise/field.safetensors. Deterministic. Made with diffusers 0.42.1, torch 2.15.0, numpy 2, and scipy
1.17 for the beta distribution; torchsde 0.2, which DPMSolverSDEScheduler imports; k-diffusion 0.1.1.
"""

import ast
import importlib.util
import inspect
import json
import math
import sys
import types
from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    StableDiffusion3Img2ImgPipeline,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from safetensors.torch import save_file

torch.set_num_threads(1)
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SDXL = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    timestep_spacing="trailing",
    prediction_type="epsilon",
)


# Every class whose config leads to a sampler of ours.
CLASSES = [
    "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE", "DPMSolverSinglestep",
    "EulerAncestralDiscrete", "EulerDiscrete", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM",
    "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep",
]  # fmt: skip
SPACINGS = ("leading", "trailing", "linspace")
# Those that walk in z/signal.
IN_SIGMA = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, DPMSolverSDEScheduler)
# Those that take two predictions for each step but the last.
TWICE = (HeunDiscreteScheduler, DPMSolverSDEScheduler)
# Those that keep each x0 for the next step.
MULTISTEP = (DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, UniPCMultistepScheduler)


def config_json(scheduler):
    """The scheduler_config.json that diffusers would write, with null for infinity, which JSON has not."""
    return json.loads(scheduler.to_json_string(), parse_constant=lambda _: None)


def own(kind, settings):
    """Those of the settings that the class has."""
    known = inspect.signature(inspect.unwrap(kind.__init__)).parameters
    return {name: value for name, value in settings.items() if name in known}


def defaults():
    """Default settings of each scheduler class; read from the source, because some classes cannot be imported
    without further packages."""
    found = {}
    for path in sorted((Path(diffusers.__file__).parent / "schedulers").glob("scheduling_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.removesuffix("Scheduler") in CLASSES:
                (init,) = (part.args for part in node.body if getattr(part, "name", "") == "__init__")
                found[node.name] = {
                    argument.arg: ast.literal_eval(value)
                    for argument, value in zip(init.args[-len(init.defaults) :], init.defaults)
                    if isinstance(value, ast.Constant)
                }
    assert len(found) == len(CLASSES) and all(table["num_train_timesteps"] == 1000 for table in found.values())
    write_json(FIXTURES / "sampler/defaults.json", found)


def timesteps():
    """1 to 50 steps of every spacing of DDIM, Euler, DPM-Solver++ and UniPC, one of those with Euler's timesteps, and of the
    one spread that LCM, TCD and singlestep DPM-Solver++ have."""
    tables = {}
    for name, kind, spacing in [
        *((f"ddim_{spacing}", DDIMScheduler, spacing) for spacing in SPACINGS),
        *((f"euler_{spacing}", EulerDiscreteScheduler, spacing) for spacing in SPACINGS),
        *((f"dpmpp-2m_{spacing}", DPMSolverMultistepScheduler, spacing) for spacing in SPACINGS),
        *((f"unipc_{spacing}", UniPCMultistepScheduler, spacing) for spacing in SPACINGS),
        ("euler-a_linspace", EulerAncestralDiscreteScheduler, "linspace"),
        ("heun_leading", HeunDiscreteScheduler, "leading"),
        ("dpmpp-2s", DPMSolverSinglestepScheduler, "linspace"),
        ("tcd", TCDScheduler, "trailing"),
        ("lcm", LCMScheduler, "trailing"),
    ]:
        tables[name] = {}
        for n in range(1, 51):
            scheduler = kind(**own(kind, {**SDXL, "timestep_spacing": spacing}))
            scheduler.set_timesteps(n)
            # numpy.arange may give one value too many for some n; none of these.
            assert len(scheduler.timesteps) == (2 * n - 1 if kind in TWICE else n), (name, n)
            tables[name][str(n)] = scheduler.timesteps.tolist()
    text = json.dumps(tables, separators=(",", ":")).replace(".0,", ",").replace(".0]", "]")
    (FIXTURES / "sampler/timesteps.json").write_text(text + "\n")


def flow_settings():
    """Settings of flow-matching schedulers, and the number of a picture's tokens where the levels depend on it."""
    dynamic = dict(use_dynamic_shifting=True)
    sd3 = dict(shift=3.0)
    return {
        "plain": ({}, None),
        "sd3": (sd3, None),
        "terminal": ({**sd3, "shift_terminal": 0.1}, None),
        "short": ({"shift": 2.5, "num_train_timesteps": 60}, None),
        "dynamic256": (dynamic, 256),
        "dynamic1024": (dynamic, 1024),
        "dynamic_ends": (
            {**dynamic, "base_shift": 0.25, "max_shift": 2.0, "base_image_seq_len": 64, "max_image_seq_len": 1024}, 400
        ),
        "dynamic_linear": ({**dynamic, **sd3, "time_shift_type": "linear", "shift_terminal": 0.02}, 4096),
        "karras": ({**sd3, "use_karras_sigmas": True}, None),
        "exponential": ({**sd3, "use_exponential_sigmas": True}, None),
        "beta": ({**dynamic, "use_beta_sigmas": True}, 1024),
    }  # fmt: skip


def flow_scheduler(settings, tokens, n):
    """A scheduler of flow matching with its steps, as the pipelines of Stable Diffusion 3 set them."""
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    mu = None
    if tokens:
        config = scheduler.config
        mu = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
    scheduler.set_timesteps(n, mu=mu)
    return scheduler


def flow():
    """Timesteps of flow matching, and the share of them that image-to-image pipelines run at a strength."""
    tables = {}
    for name, (settings, tokens) in flow_settings().items():
        # One step of a stretched schedule divides 0 by 0.
        counts = [n for n in (1, 2, 3, 4, 8, 20, 28, 50) if n > 1 or "shift_terminal" not in settings]
        steps = {str(n): flow_scheduler(settings, tokens, n).timesteps.tolist() for n in counts}
        config = config_json(flow_scheduler(settings, tokens, 2))
        tables[name] = dict(config=config, tokens=tokens, steps=steps)
    settings, tokens = flow_settings()["sd3"]
    for n in (4, 8, 20, 28, 50):
        for strength in (0.01, 0.3, 0.45, 0.5, 0.6, 0.75, 0.99, 1.0):
            pipeline = mock.Mock(scheduler=flow_scheduler(settings, tokens, n))
            timesteps, run = StableDiffusion3Img2ImgPipeline.get_timesteps(pipeline, n, strength, "cpu")
            assert len(timesteps) == run
            tables["sd3"].setdefault("strengths", []).append([n, strength, timesteps.tolist()[0], run])
    write_json(FIXTURES / "sampler/flow.json", tables)


def abar():
    variants = {
        "sdxl": SDXL,
        "ddim_defaults": dict(clip_sample=False),
        "zero_snr": {**SDXL, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        "cosine": {**SDXL, "beta_schedule": "squaredcos_cap_v2"},
        "short": {**SDXL, "num_train_timesteps": 101, "beta_schedule": "linear"},
    }
    save_file(
        {name: DDIMScheduler(**settings).alphas_cumprod.contiguous() for name, settings in variants.items()},
        FIXTURES / "sampler/abar.safetensors",
    )


V = {**SDXL, "prediction_type": "v_prediction"}
V_ZERO_SNR = {**V, "rescale_betas_zero_snr": True}


def cases():
    """Class, settings, the steps or timesteps of the schedule, how many run, and eta, by name."""
    cases = {
        "ddim_v": (DDIMScheduler, V, 8, 4, 0.0),
        "ddim_sample": (DDIMScheduler, {**SDXL, "prediction_type": "sample"}, 8, 4, 0.0),
        "ddim_leading7": (DDIMScheduler, {**SDXL, "timestep_spacing": "leading"}, 7, 4, 0.5),
        "ddim_linspace9_to_one": (
            DDIMScheduler, {**SDXL, "timestep_spacing": "linspace", "set_alpha_to_one": True}, 9, 4, 0.5
        ),
        "ddim_trailing7": (DDIMScheduler, SDXL, 7, 4, 0.0),
        "tcd_v": (TCDScheduler, V, 8, 4, 0.3),
        "tcd_sample": (TCDScheduler, {**SDXL, "prediction_type": "sample"}, 8, 4, 0.3),
        "tcd_origin20": (TCDScheduler, {**SDXL, "original_inference_steps": 20}, 6, 4, 0.3),
        "tcd_list": (TCDScheduler, SDXL, [999, 700, 333, 1], 3, 0.3),
        "euler_v": (EulerDiscreteScheduler, V, 8, 4, None),
        "euler_sample": (EulerDiscreteScheduler, {**SDXL, "prediction_type": "sample"}, 8, 4, None),
        "euler_sigma_min": (EulerDiscreteScheduler, {**SDXL, "final_sigmas_type": "sigma_min"}, 8, 4, None),
        "euler_list": (EulerDiscreteScheduler, SDXL, [999, 700, 333, 1], 3, None),
        "lcm_v": (LCMScheduler, V, 8, 4, None),
        "lcm_sample": (LCMScheduler, {**SDXL, "prediction_type": "sample"}, 8, 4, None),
        "lcm_scaling3": (LCMScheduler, {**SDXL, "timestep_scaling": 3.0, "original_inference_steps": 100}, 5, 5, None),
        # Hyper-SDXL's one-step UNet.
        "lcm_800": (LCMScheduler, SDXL, [800], 1, None),
        "lcm_list": (LCMScheduler, SDXL, [800, 500, 20, 0], 4, None),
    }  # fmt: skip
    for name, kind, etas in [
        ("ddim", DDIMScheduler, (0.0, 0.3, 1.0)),
        ("tcd", TCDScheduler, (0.0, 0.3, 1.0)),
        ("lcm", LCMScheduler, (None,)),
    ]:
        # The stretched schedule has no signal at 999: it runs from the second step on.
        cases[f"{name}_v_zero_snr"] = (kind, V_ZERO_SNR, 8, 7, etas[1] if len(etas) > 1 else None)
        for eta in etas:
            for n in (1, 4, 8, 50):
                for run in {n, math.ceil(0.45 * n)}:
                    cases[f"{name}_{'' if eta is None else f'eta{eta}_'}{run}_of_{n}"] = (kind, SDXL, n, run, eta)
    cases["euler_v_zero_snr"] = (EulerDiscreteScheduler, V_ZERO_SNR, 8, 7, None)
    for spacing in SPACINGS:
        for n in (1, 4, 8, 50):
            for run in {n, math.ceil(0.45 * n)}:
                settings = {**SDXL, "timestep_spacing": spacing}
                cases[f"euler_{spacing}_{run}_of_{n}"] = (EulerDiscreteScheduler, settings, n, run, None)
    dpm, sigma_min = DPMSolverMultistepScheduler, {**SDXL, "final_sigmas_type": "sigma_min"}
    cases |= {
        "dpmpp-2m_v": (dpm, V, 8, 4, None),
        "dpmpp-2m_sample": (dpm, {**SDXL, "prediction_type": "sample"}, 8, 4, None),
        "dpmpp-2m_v_zero_snr": (dpm, V_ZERO_SNR, 8, 7, None),
        "dpmpp-2m_list": (dpm, SDXL, [999, 700, 333, 1], 3, None),
        "dpmpp-2m_linspace_23_of_50": (dpm, {**SDXL, "timestep_spacing": "linspace"}, 50, 23, None),
        # The last step is of first order where there are few of them, unless told otherwise.
        "dpmpp-2m_sigma_min": (dpm, sigma_min, 8, 4, None),
        "dpmpp-2m_sigma_min_last_second": (dpm, {**sigma_min, "lower_order_final": False}, 8, 4, None),
        "dpmpp-2m_sigma_min_many": (dpm, sigma_min, 20, 4, None),
        "dpmpp-2m_sigma_min_many_euler": (dpm, {**sigma_min, "euler_at_final": True}, 20, 4, None),
    }  # fmt: skip
    for spacing in SPACINGS:
        for n, run in [(1, 1), (2, 2), (4, 2), (8, 8), (8, 4)]:
            cases[f"dpmpp-2m_{spacing}_{run}_of_{n}"] = (dpm, {**SDXL, "timestep_spacing": spacing}, n, run, None)
    return dict(sorted((cases | settings_cases()).items()))


def flow_cases():
    """Runs along the velocity of flow matching, from pure noise and from within."""
    cases = {}
    for name, (settings, tokens) in flow_settings().items():
        settings = {**settings, "tokens": tokens}
        for n, run in [(8, 8), (28, 13), (4, 2)]:
            cases[f"flow-euler_{name}_{run}_of_{n}"] = (FlowMatchEulerDiscreteScheduler, settings, n, run, None)
    settings = {"shift": 3.0, "stochastic_sampling": True}
    cases["flow-euler_stochastic"] = (FlowMatchEulerDiscreteScheduler, settings, 8, 8, None)
    cases["flow-euler_one"] = (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}, 1, 1, None)
    return cases


def pixart_cases():
    """Runs of the scheduler that PixArt's folders ask for, as they are published and with other noise levels."""
    dpm = DPMSolverMultistepScheduler
    settings = dict(
        num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", prediction_type="epsilon",
        timestep_spacing="linspace", steps_offset=0, solver_order=2, solver_type="midpoint", lower_order_final=True,
        algorithm_type="dpmsolver++", euler_at_final=False, use_karras_sigmas=False, thresholding=False,
    )  # fmt: skip
    cases = {}
    for n, run in [(14, 14), (14, 7), (20, 20), (20, 9)]:
        cases[f"dpmpp-2m_pixart_{run}_of_{n}"] = (dpm, settings, n, run, None)
        cases[f"dpmpp-2m_pixart_karras_{run}_of_{n}"] = (dpm, {**settings, "use_karras_sigmas": True}, n, run, None)
    for name, more in {
        "second_to_the_end": {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
        "euler_at_final": {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        "first_order": {"solver_order": 1},
    }.items():
        cases[f"dpmpp-2m_pixart_{name}"] = (dpm, {**settings, **more}, 20, 12, None)
    return cases


def solver_cases():
    """Runs of the solvers of higher order and of those with ancestral noise."""
    multistep, sde = DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}
    unipc, single = UniPCMultistepScheduler, DPMSolverSinglestepScheduler
    kinds = {
        "euler-a": (EulerAncestralDiscreteScheduler, {}), "heun": (HeunDiscreteScheduler, {}),
        "dpmpp-2m-sde": (multistep, sde), "dpmpp-sde": (DPMSolverSDEScheduler, {}), "unipc": (unipc, {}),
        "dpmpp-2s": (single, {}),
    }  # fmt: skip
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    sigma_min = {"final_sigmas_type": "sigma_min"}
    cases = {}
    for name, (kind, more) in kinds.items():
        base = {**SDXL, **more}
        known = own(kind, {"use_karras_sigmas": 0, "use_exponential_sigmas": 0, "use_beta_sigmas": 0, "use_lu_lambdas": 0})
        for spread in known:
            for n, run in [(1, 1), (8, 8), (20, 9)]:
                cases[f"{name}_{spread[4:]}_{run}_of_{n}"] = (kind, {**base, spread: True}, n, run, None)
        for spacing in SPACINGS:
            for n, run in [(1, 1), (2, 2), (4, 2), (8, 8), (8, 3), (15, 15)]:
                cases[f"{name}_{spacing}_{run}_of_{n}"] = (kind, {**base, "timestep_spacing": spacing}, n, run, None)
        cases[f"{name}_v"] = (kind, {**base, "prediction_type": "v_prediction"}, 8, 5, None)
        cases[f"{name}_cosine"] = (kind, {**base, **cosine}, 8, 5, None)
        if kind not in (EulerAncestralDiscreteScheduler, DPMSolverSDEScheduler):  # which do not know it
            cases[f"{name}_sample"] = (kind, {**base, "prediction_type": "sample"}, 8, 5, None)
        if own(kind, {"rescale_betas_zero_snr": True}):
            cases[f"{name}_v_zero_snr"] = (kind, {**V_ZERO_SNR, **more}, 8, 7, None)
        if kind in MULTISTEP:
            threshold = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.5}
            cases |= {
                f"{name}_threshold": (kind, {**base, **threshold}, 8, 6, None),
                f"{name}_sigma_min": (kind, {**base, **sigma_min}, 8, 5, None),
                f"{name}_sigma_min_highest": (kind, {**base, **sigma_min, "lower_order_final": False}, 8, 8, None),
                f"{name}_sigma_min_many": (kind, {**base, **sigma_min}, 20, 6, None),
                f"{name}_order1": (kind, {**base, "solver_order": 1}, 8, 5, None),
            }
        if kind in (multistep, single):
            cases[f"{name}_heun"] = (kind, {**base, "solver_type": "heun"}, 8, 7, None)
            cases[f"{name}_lambda_min"] = (kind, {**base, **cosine, "lambda_min_clipped": -5.1}, 8, 8, None)
            cases[f"{name}_list"] = (kind, base, [999, 700, 333, 1], 4, None)
    cases |= {
        "heun_list": (HeunDiscreteScheduler, SDXL, [999, 700, 333, 1], 3, None),
        "heun_clip": (HeunDiscreteScheduler, {**SDXL, "clip_sample": True, "clip_sample_range": 0.75}, 8, 5, None),
        "dpmpp-2m-sde_sigma_min_euler": (multistep, {**SDXL, **sde, **sigma_min, "euler_at_final": True}, 20, 6, None),
        "unipc_bh1": (unipc, {**SDXL, **sigma_min, "solver_type": "bh1"}, 8, 7, None),
        "unipc_bh1_sigma_min": (unipc, {**SDXL, **sigma_min, "solver_type": "bh1", "lower_order_final": False}, 8, 8, None),
        "unipc_uncorrected": (unipc, {**SDXL, "disable_corrector": [0, 4]}, 8, 8, None),
    }  # fmt: skip
    return dict(sorted(cases.items()))


def few_step_cases():
    """The models of models/registry.json that are made for few steps, each with the scheduler of its card: all steps, and
    those that an enlargement runs."""
    euler, ancestral = EulerDiscreteScheduler, EulerAncestralDiscreteScheduler
    settings = {
        # https://huggingface.co/ByteDance/SDXL-Lightning: trailing; the one-step model predicts the picture
        "euler_sdxl-lightning-1step": (euler, {**SDXL, "prediction_type": "sample"}, 1, 1, None),
        "euler_sdxl-lightning-2step": (euler, SDXL, 2, 1, None),
        "euler_sdxl-lightning-4step": (euler, SDXL, 4, 2, None),
        "euler_sdxl-lightning-8step": (euler, SDXL, 8, 4, None),
        # https://huggingface.co/stabilityai/sdxl-turbo: its own scheduler
        "euler-a_sdxl-turbo": (ancestral, SDXL, 4, 2, None),
        # https://huggingface.co/tianweiy/DMD2
        "lcm_dmd2-sdxl": (LCMScheduler, SDXL, [999, 749, 499, 249], 2, None),
        # https://github.com/G-U-N/Phased-Consistency-Model
        "ddim_pcm-sdxl": (DDIMScheduler, SDXL, 4, 2, 0.0),
        # https://huggingface.co/latent-consistency
        "lcm_sdxl-lcm": (LCMScheduler, SDXL, 4, 2, None),
        "lcm_sd15-lcm": (LCMScheduler, SDXL, 4, 2, None),
        "lcm_lcm-sdxl": (LCMScheduler, SDXL, 4, 2, None),
        "lcm_lcm-dreamshaper-v7": (LCMScheduler, SDXL, 4, 2, None),
        # https://huggingface.co/ByteDance/Hyper-SD
        "ddim_hyper-sdxl": (DDIMScheduler, SDXL, 8, 4, 0.0),
        "ddim_hyper-sdxl-cfg": (DDIMScheduler, SDXL, 8, 4, 0.0),
        "ddim_hyper-sd15": (DDIMScheduler, SDXL, 8, 4, 0.0),
        "tcd_hyper-sdxl-unified": (TCDScheduler, SDXL, 8, 4, 0.3),
        "lcm_hyper-sdxl-1step": (LCMScheduler, SDXL, [800], 1, None),
    }  # fmt: skip
    whole = {}
    for name, (kind, own_settings, n, _, eta) in settings.items():
        whole[f"{name}_whole"] = (kind, own_settings, n, len(n) if isinstance(n, list) else n, eta)
    return settings | whole


def set_beyond(settings):
    """What settings say that SDXL's do not."""
    return {name: value for name, value in settings.items() if SDXL.get(name) != value}


def settings_cases():
    """Settings that few models have: another schedule of betas, clipping of x0, pure noise at the first step, noise levels
    that are not the training's."""
    samplers = {
        "ddim": (DDIMScheduler, 0.0), "tcd": (TCDScheduler, 0.3), "lcm": (LCMScheduler, None),
        "euler": (EulerDiscreteScheduler, None), "dpmpp-2m": (DPMSolverMultistepScheduler, None),
    }  # fmt: skip
    cosine = {**SDXL, "beta_schedule": "squaredcos_cap_v2"}
    threshold = {**SDXL, "thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.5}
    clip = {**SDXL, "clip_sample": True, "clip_sample_range": 0.75}
    cases = {}
    for name, (kind, eta) in samplers.items():
        # Of a cosine schedule's first timesteps hardly a trace of the picture is left.
        cases[f"{name}_cosine"] = (kind, {**cosine, "prediction_type": "v_prediction"}, 8, 8, eta)
        cases[f"{name}_cosine_eps"] = (kind, cosine, 8, 5, eta)
        for prediction in ("v_prediction", "sample"):
            settings = {**V_ZERO_SNR, "prediction_type": prediction}
            cases[f"{name}_{prediction}_pure_noise"] = (kind, settings, 8, 8, eta)
    for name, settings in [("clip", clip), ("threshold", threshold), ("both", {**clip, **threshold})]:
        cases |= {
            f"ddim_{name}": (DDIMScheduler, settings, 8, 4, 0.0),
            f"ddim_{name}_eta": (DDIMScheduler, settings, 8, 4, 0.5),
            f"ddim_{name}_pure_noise": (DDIMScheduler, {**V_ZERO_SNR, **set_beyond(settings)}, 8, 8, 0.0),
            # Whose step does not look at them.
            f"tcd_{name}": (TCDScheduler, settings, 8, 4, 0.3),
            f"lcm_{name}": (LCMScheduler, settings, 8, 4, None),
        }
    cases["dpmpp-2m_threshold"] = (DPMSolverMultistepScheduler, threshold, 8, 5, None)
    cases["ddim_threshold_at_1"] = (DDIMScheduler, {**SDXL, "thresholding": True}, 8, 4, 0.0)
    for spread in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas"):
        own = {f"use_{spread}": True}
        kinds = [("dpmpp-2m", DPMSolverMultistepScheduler)]
        if spread != "lu_lambdas":
            kinds.append(("euler", EulerDiscreteScheduler))
        for name, kind in kinds:
            for n, run in [(1, 1), (8, 8), (20, 9)]:
                cases[f"{name}_{spread}_{run}_of_{n}"] = (kind, {**SDXL, **own}, n, run, None)
            leading = {**SDXL, **own, "timestep_spacing": "leading", "final_sigmas_type": "sigma_min"}
            cases[f"{name}_{spread}_leading"] = (kind, leading, 8, 8, None)
            cases[f"{name}_{spread}_cosine"] = (kind, {**cosine, **own}, 8, 5, None)
            cases[f"{name}_{spread}_pure_noise"] = (kind, {**V_ZERO_SNR, **own}, 8, 8, None)
            if spread in ("karras_sigmas", "exponential_sigmas") and name == "euler":
                ends = {**SDXL, **own, "sigma_min": 0.1, "sigma_max": 10.0}
                cases[f"{name}_{spread}_ends"] = (kind, ends, 8, 8, None)
    log_linear = {**SDXL, "interpolation_type": "log_linear"}
    cases["euler_log_linear"] = (EulerDiscreteScheduler, log_linear, 8, 8, None)
    cases["euler_log_linear_karras"] = (EulerDiscreteScheduler, {**log_linear, "use_karras_sigmas": True}, 8, 8, None)
    for spacing in SPACINGS:
        late = {**cosine, "lambda_min_clipped": -5.1, "timestep_spacing": spacing}
        cases[f"dpmpp-2m_lambda_min_{spacing}"] = (DPMSolverMultistepScheduler, late, 8, 8, None)
    cases["dpmpp-2m_heun"] = (DPMSolverMultistepScheduler, {**SDXL, "solver_type": "heun"}, 8, 5, None)
    cases["dpmpp-2m_order1"] = (DPMSolverMultistepScheduler, {**SDXL, "solver_order": 1}, 8, 5, None)
    return cases


def brownian(noises):
    """Increments of a Brownian motion in sigma, each divided by the root of its length: those from a step's start to its
    middle and to its end share the way to the middle. Each prediction has a noise of its own, as on the canvas."""
    calls = iter(range(len(noises)))

    def increment(sigma, sigma_next):
        i, start, end = next(calls), float(sigma), float(sigma_next)
        if i % 2 == 0:
            return noises[i]
        middle = (start * end) ** 0.5
        return ((start - middle) ** 0.5 * noises[i - 1] + (middle - end) ** 0.5 * noises[i]) / (start - end) ** 0.5

    return increment


def trajectory(kind, settings, n, run, eta, draws):
    """The last `run` steps with given model outputs and noise: the config, the timesteps, z before and after each,
    and the x0 of each where the class tells it."""
    scheduler = kind(**own(kind, settings))
    if settings.get("thresholding"):  # whose quantiles are each sample's own
        draws = {name: draw[None] if name in ("zl", "noise0") else draw[:, None] for name, draw in draws.items()}
    if kind is FlowMatchEulerDiscreteScheduler:
        scheduler = flow_scheduler(own(kind, settings), settings.get("tokens"), n)
    else:
        scheduler.set_timesteps(**({"timesteps": n} if isinstance(n, list) else {"num_inference_steps": n}))
    whole = (len(scheduler.timesteps) + 1) // 2 if kind in TWICE else len(scheduler.timesteps)
    first = (whole - run) * (2 if kind in TWICE else 1)
    ts = scheduler.timesteps[first:]
    if kind is not DDIMScheduler:  # which counts nothing
        scheduler.set_begin_index(first)
    # Euler walks in z/signal, whose f32 loses 1e-4 of what is left in the end where it begins at pure noise: f64 there.
    # So does Heun's, which divides differences of x by small sigmas.
    double = kind is EulerDiscreteScheduler and scheduler.sigmas[first] > 100 or kind is HeunDiscreteScheduler
    if double:
        scheduler.sigmas = scheduler.sigmas.double()
        draws = {name: draw.double() for name, draw in draws.items()}
    if kind is FlowMatchEulerDiscreteScheduler:
        x = scheduler.scale_noise(draws["zl"], ts[:1], draws["noise0"])
    else:
        x = scheduler.add_noise(draws["zl"], draws["noise0"], ts[:1])
    if kind in IN_SIGMA:
        # The UNet sees the latent in its variance-preserving form, as on the canvas.
        sigmas = scheduler.sigmas[first:].clone()
        if kind is DPMSolverSDEScheduler:  # whose second prediction is made half-way in the logarithm
            sigmas[1:-1:2] = (sigmas[:-2:2] * sigmas[1:-1:2]) ** 0.5
            scheduler.noise_sampler = brownian(draws["noises"])
        zs = [x / (sigmas[0] ** 2 + 1) ** 0.5]
    else:
        zs = [x]
    x0s = []
    for i, t in enumerate(ts):
        seen = x if kind is FlowMatchEulerDiscreteScheduler else scheduler.scale_model_input(x, t)
        assert torch.equal(seen, zs[-1]) or kind in IN_SIGMA and torch.allclose(seen, zs[-1])
        arguments = {}
        if kind is DDIMScheduler:
            arguments = dict(eta=eta, variance_noise=draws["noises"][i] if eta > 0 else None)
        elif kind is TCDScheduler:
            arguments = dict(eta=eta)
        names = {
            LCMScheduler: "lcm", FlowMatchEulerDiscreteScheduler: "flow_match_euler_discrete",
            EulerAncestralDiscreteScheduler: "euler_ancestral_discrete",
            DPMSolverMultistepScheduler: "dpmsolver_multistep",
        }  # fmt: skip
        module = f"diffusers.schedulers.scheduling_{names.get(kind, 'tcd')}"
        precision = mock.patch.object(torch, "float32", torch.float64 if double else torch.float32)
        with mock.patch(f"{module}.randn_tensor", lambda *_, **__: draws["noises"][i]), precision:
            result = scheduler.step(draws["outputs"][i], t, x, **arguments)
        x = result.prev_sample
        if kind in MULTISTEP:
            x0s.append(scheduler.model_outputs[-1])
        else:
            x0s.append(result.get("pred_original_sample"))
        zs.append(x / (sigmas[i + 1] ** 2 + 1) ** 0.5 if kind in IN_SIGMA else x)
    zs = torch.stack(zs).float()
    assert torch.isfinite(zs).all()
    return config_json(scheduler), ts.tolist(), zs, torch.stack(x0s).float() if x0s[0] is not None else None


def k_diffusion():
    """The samplers of k-diffusion, without the packages that its other modules ask for."""
    wanted = ("torchdiffeq", "torchsde", "k_diffusion")
    folder = Path(importlib.util.find_spec("k_diffusion").submodule_search_locations[0])
    stubs = {name: types.ModuleType(name) for name in (*wanted, "k_diffusion.utils")}
    stubs["torchdiffeq"].odeint = None
    stubs["k_diffusion"].utils = stubs["k_diffusion.utils"]
    with mock.patch.dict(sys.modules, stubs):
        spec = importlib.util.spec_from_file_location("k_diffusion.sampling", folder / "sampling.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def third_order_cases():
    """Runs of k-diffusion's DPM++ 3M SDE through the levels of diffusers' DPM-Solver."""
    exponential = {**SDXL, "use_exponential_sigmas": True}
    zero_snr = {**SDXL, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    cases = {}
    for name, settings in {
        "": SDXL, "karras_": {**SDXL, "use_karras_sigmas": True}, "exponential_": exponential,
        "beta_": {**SDXL, "use_beta_sigmas": True}, "sigma_min_": {**SDXL, "final_sigmas_type": "sigma_min"},
        "trailing_": {**SDXL, "timestep_spacing": "trailing"}, "zero_snr_": zero_snr,
    }.items():  # fmt: skip
        # (It does not run with a single step.)
        for n, run in [(2, 2), (3, 3), (8, 8), (8, 4), (20, 9)]:
            cases[f"dpmpp-3m-sde_{name}{run}_of_{n}"] = (settings, n, run)
    return cases


def third_order(file):
    """As `trajectories`, with steps of k-diffusion in f64; its x is the canvas over the signal."""
    sampling, tensors, about = k_diffusion(), {}, {}
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, 2, 4)
    draws = {name: torch.randn(shape, generator=generator) for name in ("zl", "noise0")}
    draws |= {name: torch.randn((20, *shape), generator=generator) for name in ("outputs", "noises")}
    for name, (settings, n, run) in third_order_cases().items():
        scheduler = DPMSolverMultistepScheduler(**own(DPMSolverMultistepScheduler, settings))
        scheduler.set_timesteps(n)
        sigmas = scheduler.sigmas[n - run :].double()
        outputs, noises = iter(draws["outputs"].double()), iter(draws["noises"].double())
        seen = []
        x = sampling.sample_dpmpp_3m_sde(
            lambda x, sigma: x - sigma[0] * next(outputs), draws["zl"].double() + sigmas[0] * draws["noise0"], sigmas,
            callback=lambda state: seen.append(state["x"]), disable=True, noise_sampler=lambda *_: next(noises),
        )  # fmt: skip
        zs = [x / (sigma**2 + 1) ** 0.5 for x, sigma in zip([*seen, x], sigmas)]
        tensors[f"z.{name}"] = torch.cat(zs).float()
        timesteps = scheduler.timesteps[n - run :].tolist()
        about[name] = dict(config=config_json(scheduler), n=n, run=run, eta=None, timesteps=timesteps)
    save_file(tensors | draws, FIXTURES / f"sampler/{file}.safetensors")
    write_json(FIXTURES / f"sampler/{file}.json", about)


def trajectories(file, cases):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 4)
    draws = {name: torch.randn(shape, generator=generator) for name in ("zl", "noise0")}
    draws |= {name: torch.randn((50, *shape), generator=generator) for name in ("outputs", "noises")}
    tensors, about = dict(draws), {}
    for name, (kind, settings, n, run, eta) in cases.items():
        config, ts, tensors[f"z.{name}"], x0s = trajectory(kind, settings, n, run, eta, draws)
        if x0s is not None and run <= 8:
            tensors[f"x0.{name}"] = x0s
        about[name] = dict(config=config, n=n, run=run, eta=eta, timesteps=ts)
        if tokens := settings.get("tokens"):
            about[name]["tokens"] = tokens
    save_file(tensors, FIXTURES / f"sampler/{file}.safetensors")
    write_json(FIXTURES / f"sampler/{file}.json", about)


def write_json(path, value):
    """One line for each key."""
    lines = (f"{json.dumps(key)}: {json.dumps(part, separators=(',', ':'))}" for key, part in value.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def philox4x32_10(counter, key):
    """Philox4x32-10 in Python integers, after Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"."""
    mask = 0xFFFFFFFF
    c, k = list(counter), list(key)
    for round_number in range(10):
        if round_number:
            k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
        hi0, lo0 = divmod(0xD2511F53 * c[0], 1 << 32)
        hi1, lo1 = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0]
    return c


def normal(seed, draw, c, y, x):
    words = philox4x32_10((draw, c, y, x), (seed & 0xFFFFFFFF, seed >> 32))
    u1, u2 = ((word + 0.5) / 2**32 for word in words[:2])
    return math.sqrt(-2.0 * math.log(u1)) * math.cos(2.0 * math.pi * u2)


def noise():
    assert philox4x32_10((0,) * 4, (0,) * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    windows = {"seed0": (0, 0, 0, 0), "seed_large": (0xFEDCBA9876543210, 3, 1000, 70000)}
    tensors = {}
    for name, (seed, draw, y0, x0) in windows.items():
        values = [[[normal(seed, draw, c, y0 + y, x0 + x) for c in range(4)] for x in range(16)] for y in range(16)]
        tensors[name] = torch.from_numpy(np.array(values, dtype=np.float64).astype(np.float32))
    save_file(tensors, FIXTURES / "noise/field.safetensors")


if __name__ == "__main__":
    for folder in ("sampler", "noise"):
        (FIXTURES / folder).mkdir(parents=True, exist_ok=True)
    defaults()
    timesteps()
    flow()
    abar()
    trajectories("trajectories", cases())
    trajectories("flow_trajectories", flow_cases())
    trajectories("pixart_trajectories", pixart_cases())
    trajectories("solver_trajectories", solver_cases())
    third_order("k_diffusion_trajectories")
    trajectories("few_step_trajectories", few_step_cases())
    noise()
