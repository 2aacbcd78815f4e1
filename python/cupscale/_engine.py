"""The engine, and functions on one that all calls share."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple, Union, overload

from . import _cupscale, _pictures
from ._types import Control, Model, Path, Plan, ProgressCallback, Report

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from PIL.Image import Image

    from ._types import Array, EngineOptions, File, FileSettings, Picture, Settings


class Engine:
    """A model on a device, ready for any number of jobs.

    Its parts are loaded by the first job, and stay loaded where the memory allows it. Threads may share an engine: one job runs at
    a time, others wait for their turn, and Python is free meanwhile. An engine does not survive a fork.

    model: a name that ``cupscale.models()`` lists, a folder in diffusers' layout, or a file (safetensors, GGUF); the small model
      that is part of this package (``"mini"``) where it is not given.
    device: ``"auto"`` (default), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"cuda:0,cuda:1"``, ``"cuda:all"`` or ``"metal"``.
    dtype: products of the denoiser on the CPU in ``"f32"`` (default), ``"bf16"`` or ``"auto"``.
    max_memory: the most memory of a job on each device, in bytes or as ``"8GiB"``; all that is free less a margin by default.
    loras: names or files, or tuples (file, scale) or (file, scale, weights of blocks).
    embeddings: files or folders of textual inversions, or a dict of names and files.
    controls: names or files of ControlNets, or :class:`cupscale.Control`.
    unet, vae, text_encoder: other parts for the model; first: an ESRGAN or Real-ESRGAN that enlarges before all else.
    quantize: ``"q8_0"``, ``"q6_k"``, ``"q5_k"``, ``"q4_k"`` or ``"f16"``, to which weights are rounded as they are read.
    captioner: ``"attributes"`` (default), ``"none"`` or ``"llava"``; of this caption_model, caption_mmproj, caption_quantize,
      caption_temperature (0 to 2), caption_top_p (0 to 1), caption_seed, caption_batch (1 to 1024), no_caption_cache.
    batch (1 to 1024), tile (32 to 16384), vae_disk (bytes): defaults of its jobs; kernels: ``"own"`` or ``"composed"``, of GPUs.

    These are the options of ``cupscale-fast``, with underscores; those that may be repeated there are lists here. The guide
    describes each.
    """

    _engine: _cupscale.Engine

    def __init__(self, model: Optional[Path] = None, **options: Unpack[EngineOptions]) -> None:
        given: Dict[str, Any] = {"model": model, **options}
        controls = given.get("controls")
        if isinstance(controls, Control):
            controls = [controls]
        if isinstance(controls, (list, tuple)):
            given["controls"] = [_control(control) for control in controls]
        self._engine = _cupscale.Engine(given)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._engine.name

    @property
    def devices(self) -> List[str]:
        """Names of the devices: ``["cuda:0"]``."""
        return self._engine.devices

    @property
    def computes_on(self) -> str:
        """Backend and precision, and on the CPU the instruction set of its products."""
        return self._engine.computes_on

    @property
    def weight_bytes(self) -> int:
        """Bytes of all loaded weights, in memory or mapped."""
        return self._engine.weight_bytes

    def __repr__(self) -> str:
        return f"<cupscale.Engine {self.name!r} on {', '.join(self.devices)}>"

    @overload
    def upscale(
        self,
        image: Union[Image, File],
        scale: Optional[float] = None,
        *,
        progress: Optional[ProgressCallback] = None,
        **settings: Unpack[Settings],
    ) -> Image: ...

    @overload
    def upscale(
        self,
        image: Array,
        scale: Optional[float] = None,
        *,
        progress: Optional[ProgressCallback] = None,
        **settings: Unpack[Settings],
    ) -> Array: ...

    def upscale(
        self,
        image: Any,
        scale: Optional[float] = None,
        *,
        progress: Optional[ProgressCallback] = None,
        **settings: Unpack[Settings],
    ) -> Any:
        """Enlarges a picture in memory.

        image: what comes back is of the same kind.

          - an array (numpy, or anything that numpy makes an array of): (height, width), or (height, width, channels) with 1, 3
            or 4 channels; uint8, uint16, or float32 in which 1 is white and more is light above white; gamma-encoded sRGB, with
            alpha that is not multiplied into the colours. Shape and type stay; strides may be any.
          - a Pillow image of mode 1, L, LA, RGB, RGBA, P, I;16 and those that become them without a loss. It is turned upright by
            its EXIF orientation, and keeps its profile, EXIF and resolution.
          - a path, or the bytes of a file: read as the program reads it, and comes back as a Pillow image of 8 bits (greys of 16
            bits as I;16).

        scale: times width and height, 4 by default; or ``size=(width, height)``, or ``long_edge=pixels``.

        progress: called with a :class:`cupscale.Progress` when a stage begins and whenever it advances. What it raises ends the
        job at its next batch and comes out here; if it returns False, the job ends with :class:`cupscale.Interrupted`. Ctrl-C
        ends it too, with KeyboardInterrupt.

        settings: the options of ``cupscale-fast``, with underscores. prompt, negative_prompt, prompt_syntax; captioner, captions
        (what :meth:`caption` returned, perhaps edited, or a file); profile; seed (0); steps (1 to 1000), strength (above 0, to 1),
        denoise_steps (0 to 1000), sampler, eta (0 to 1), spacing, sigmas, timesteps, guidance (0 to 100); overlap (0 to 0.9),
        fusion, tile_jitter; gsp, rap, rsp, first_share (0 to 1); sharpen (0 to 2), grain (0 to 20), fidelity, coherence, texture (0 to 1); color_fix, detail_only, blend (0 to 1);
        mask (a picture, an array of bool too), invert_mask, mask_feather (0 to 1000); batch, tile, vae_disk, max_memory; of files page (from 1), allow_truncated,
        max_metadata.

        The same picture and settings give the same samples as the program, whatever the batch and the number of threads.
        """
        options = _options(scale, settings)
        read = _pictures.read(image, options)
        return read.back(*self._engine.upscale(read.picture, read.form, progress, options))

    def upscale_file(
        self,
        input: Union[File, Any],
        output: Path,
        scale: Optional[float] = None,
        *,
        progress: Optional[ProgressCallback] = None,
        **settings: Unpack[FileSettings],
    ) -> Report:
        """Enlarges a file into a file, band by band, with all metadata, as the program does: the same bytes.

        The output appears complete or not at all. A job that was interrupted or killed goes on when the same call is made again.

        input: a path, or the bytes of a file. output: a path, whose extension names the format.

        settings: those of :meth:`upscale`, and format, quality (JPEG, 1 to 100), bit_depth (8, 16 or 32), work_dir (a folder for
        unfinished work, in place of the output's), resume (fail if there is none), fresh (discard it).
        """
        options = _options(scale, settings)
        if isinstance(input, (bytearray, memoryview)):
            input = bytes(input)
        return Report(**json.loads(self._engine.upscale_file(input, output, progress, options)))

    def plan(
        self,
        image: Union[Picture, Tuple[int, int]],
        scale: Optional[float] = None,
        **settings: Unpack[Settings],
    ) -> Plan:
        """Plans a job without running it: regions, steps, memory. A pair (width, height) stands for a picture of that size."""
        options = _options(scale, settings)
        size, alpha = _pictures.size(image), False
        if size is None:
            picture = _pictures.read(image, options).picture
            size, alpha = picture.size, picture.has_alpha
        return Plan(**json.loads(self._engine.plan(size, alpha, options)))

    def caption(
        self,
        image: Picture,
        scale: Optional[float] = None,
        *,
        progress: Optional[ProgressCallback] = None,
        **settings: Unpack[Settings],
    ) -> Dict[str, Any]:
        """Describes every region of a job, and returns the document of captions: a dict with ``grid``, ``prompt`` and
        ``regions``, each with its place in the output and its ``caption``. It may be edited, and given back as ``captions=``."""
        options = _options(scale, settings)
        picture = _pictures.read(image, options).picture
        captions: Dict[str, Any] = json.loads(self._engine.caption(picture, progress, options))
        return captions


def _options(scale: Optional[float], settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Keywords as the library's side takes them: pictures are read, documents are JSON."""
    options = {"scale": scale, **settings}
    if options.get("mask") is not None:
        options["mask"] = _pictures.mask(options["mask"])
    if isinstance(options.get("captions"), Mapping):
        options["captions"] = json.dumps(options["captions"]).encode()
    return options


def _control(control: Any) -> Any:
    if isinstance(control, tuple):
        control = Control(*control)
        if control.image is not None:
            control = control._replace(image=_pictures.read(control.image, {}).picture)
    return control


_lock = threading.Lock()
_shared: Optional[Engine] = None


def _default() -> Engine:
    """The engine of the functions of this module: the embedded model on the fastest device."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = Engine()
        return _shared


@overload
def upscale(
    image: Union[Image, File],
    scale: Optional[float] = None,
    *,
    progress: Optional[ProgressCallback] = None,
    **settings: Unpack[Settings],
) -> Image: ...


@overload
def upscale(
    image: Array,
    scale: Optional[float] = None,
    *,
    progress: Optional[ProgressCallback] = None,
    **settings: Unpack[Settings],
) -> Array: ...


def upscale(
    image: Any,
    scale: Optional[float] = None,
    *,
    progress: Optional[ProgressCallback] = None,
    **settings: Unpack[Settings],
) -> Any:
    """Enlarges a picture with the embedded model on the fastest device: :meth:`Engine.upscale` of an engine that all calls share."""
    return _default().upscale(image, scale, progress=progress, **settings)


def upscale_file(
    input: Union[File, Any],
    output: Path,
    scale: Optional[float] = None,
    *,
    progress: Optional[ProgressCallback] = None,
    **settings: Unpack[FileSettings],
) -> Report:
    """Enlarges a file into a file with the embedded model: :meth:`Engine.upscale_file` of an engine that all calls share."""
    return _default().upscale_file(input, output, scale, progress=progress, **settings)


def models() -> List[Model]:
    """Installed models, and those that ``cupscale-fast models pull NAME`` would download."""
    listed = json.loads(_cupscale.models())
    for model in listed:
        model["licence"] = (model["licence"] or {}).get("name")
        del model["size_is_exact"]
    return [Model(**model) for model in listed]


def read_settings(path: Path) -> Optional[Dict[str, Any]]:
    """The settings that made a picture, from its file's metadata; None where there are none."""
    text = _cupscale.read_settings(path)
    settings: Optional[Dict[str, Any]] = None if text is None else json.loads(text)
    return settings


def set_threads(threads: int) -> int:
    """Sets the number of threads on the CPU, for the whole process, before anything else is called; all cores by default. Returns
    the number that is used, which is at most four for each core."""
    return _cupscale.set_threads(threads)
