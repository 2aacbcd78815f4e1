"""Creative picture upscaling on the device: a few-step diffusion model repaints the enlarged picture region by region.

    import cupscale
    big = cupscale.upscale(image, scale=4)        # a Pillow image, a numpy array, a path

See :class:`Engine` for other models and devices, and :meth:`Engine.upscale` for all settings. Notes on jobs go to the logger
``cupscale``."""

from ._cupscale import Progress, __version__
from ._engine import Engine, models, read_settings, set_threads, upscale, upscale_file
from ._errors import (
    DeviceError,
    Error,
    InputError,
    InputNotFoundError,
    Interrupted,
    ModelError,
    OutOfMemoryError,
    OutputError,
    SettingsError,
    WorkError,
)
from ._types import Control, Model, Plan, Report

__all__ = [
    "Control",
    "DeviceError",
    "Engine",
    "Error",
    "InputError",
    "InputNotFoundError",
    "Interrupted",
    "Model",
    "ModelError",
    "OutOfMemoryError",
    "OutputError",
    "Plan",
    "Progress",
    "Report",
    "SettingsError",
    "WorkError",
    "__version__",
    "models",
    "read_settings",
    "set_threads",
    "upscale",
    "upscale_file",
]
