"""Types of pictures, of the keywords that a call takes, and of what it returns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence, Tuple, TypedDict, Union

from . import _cupscale

if TYPE_CHECKING:
    import numpy
    import numpy.typing
    from PIL.Image import Image

    Array = numpy.typing.NDArray[Any]
    File = Union[str, os.PathLike[str], bytes, bytearray, memoryview]
    Picture = Union[Image, Array, File, Any]

Path = Union[str, "os.PathLike[str]"]
Bytes = Union[int, str]
Progress = _cupscale.Progress
ProgressCallback = Callable[[Progress], Optional[bool]]

Captioner = Literal["attributes", "llava", "none"]
Captions = Mapping[str, Any]
Profile = Literal["faithful", "balanced", "creative", "fast"]
Quantization = Literal["q8_0", "q6_k", "q5_k", "q4_k", "f16"]
Format = Literal["png", "jpeg", "webp", "tiff", "ppm", "pam", "farbfeld", "exr"]


class Control(NamedTuple):
    """A ControlNet in an engine: a name or a path, how strong it is (0 to 10), the share of the steps in which it works, what it
    sees of the input (``"tile"``, ``"canny"`` or ``"blur"``), and a picture that it sees in place of it."""

    name: Path
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    kind: Literal["tile", "canny", "blur"] = "tile"
    image: Any = None


class EngineOptions(TypedDict, total=False):
    """Keywords of :class:`cupscale.Engine` beside ``model``; None stands for the default."""

    unet: Optional[Path]
    text_encoder: Optional[Path]
    vae: Optional[Path]
    quantize: Optional[Quantization]
    loras: Union[Path, Sequence[Union[Path, Tuple[Path, float], Tuple[Path, float, Sequence[float]]]], None]
    embeddings: Union[Path, Sequence[Path], Dict[str, Path], None]
    controls: Union[Path, Control, Sequence[Union[Path, Control]], None]
    first: Optional[Path]
    device: Optional[str]
    dtype: Optional[Literal["f32", "bf16", "auto"]]
    kernels: Optional[Literal["own", "composed"]]
    batch: Optional[int]
    tile: Optional[int]
    vae_disk: Optional[Bytes]
    max_memory: Optional[Bytes]
    captioner: Optional[Captioner]
    caption_model: Optional[Path]
    caption_mmproj: Optional[Path]
    caption_quantize: Optional[Quantization]
    caption_temperature: Optional[float]
    caption_top_p: Optional[float]
    caption_seed: Optional[int]
    caption_batch: Optional[int]
    no_caption_cache: Optional[bool]


class Settings(TypedDict, total=False):
    """Keywords of a job beside ``scale``; None stands for the default."""

    size: Union[Tuple[int, int], str, None]
    long_edge: Optional[int]
    prompt: Optional[str]
    negative_prompt: Optional[str]
    prompt_syntax: Optional[Literal["plain", "weighted"]]
    captioner: Optional[Captioner]
    captions: Union[Captions, Path, None]
    profile: Optional[Profile]
    seed: Optional[int]
    steps: Optional[int]
    strength: Optional[float]
    denoise_steps: Optional[int]
    sampler: Optional[str]
    eta: Optional[float]
    spacing: Optional[Literal["leading", "trailing", "linspace"]]
    sigmas: Optional[Literal["simple", "karras", "exponential", "beta"]]
    timesteps: Optional[Sequence[int]]
    guidance: Optional[float]
    overlap: Optional[float]
    fusion: Optional[Literal["feather", "average"]]
    tile_jitter: Optional[bool]
    gsp: Optional[float]
    rap: Optional[float]
    rsp: Optional[float]
    first_share: Optional[float]
    sharpen: Optional[float]
    grain: Optional[float]
    fidelity: Optional[float]
    coherence: Optional[float]
    texture: Optional[float]
    color_fix: Optional[Literal["wavelet", "adain", "lab", "none"]]
    detail_only: Optional[bool]
    blend: Optional[float]
    mask: Any
    invert_mask: Optional[bool]
    mask_feather: Optional[int]
    batch: Optional[int]
    tile: Optional[int]
    vae_disk: Optional[Bytes]
    max_memory: Optional[Bytes]
    page: Optional[int]
    allow_truncated: Optional[bool]
    max_metadata: Optional[Bytes]


class FileSettings(Settings, total=False):
    """Keywords of a job from a file to a file beside ``scale``; None stands for the default."""

    format: Optional[Format]
    quality: Optional[int]
    bit_depth: Optional[Literal[8, 16, 32]]
    work_dir: Optional[Path]
    resume: Optional[bool]
    fresh: Optional[bool]


class Plan(NamedTuple):
    """What a job would do, without doing it. ``str()`` of it is what ``cupscale-fast plan`` prints."""

    width: int
    height: int
    regions: int
    regions_run: int
    steps: int
    sampler: str
    calls: int
    controls: List[str]
    vae_tiles: int
    first: Optional[str]
    computes_on: str
    devices: List[str]
    work_bytes: int
    memory: Dict[str, Any]
    text: str

    def __str__(self) -> str:
        return self.text


class Report(NamedTuple):
    """What a job from a file to a file did. ``captions`` and ``settings`` are as they were used."""

    path: str
    width: int
    height: int
    regions: int
    steps: int
    captions: Dict[str, Any]
    settings: Dict[str, Any]


class Model(NamedTuple):
    """A model that is installed, or known by its name. ``state`` is ``"installed"``, ``"incomplete"`` or ``"known"``."""

    name: str
    title: str
    kind: str
    state: str
    own: bool
    size: int
    licence: Optional[str]
    path: Optional[str]
