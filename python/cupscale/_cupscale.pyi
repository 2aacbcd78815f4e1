import os
from typing import Any, Callable, Final, final

__all__ = [
    "ENGINE_OPTIONS",
    "Engine",
    "JOB_OPTIONS",
    "Picture",
    "Progress",
    "__version__",
    "models",
    "read_settings",
    "set_threads",
]

__version__: Final[str]
JOB_OPTIONS: Final[list[str]]
ENGINE_OPTIONS: Final[list[str]]

@final
class Progress:
    @property
    def stage(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def eta(self) -> float | None: ...

@final
class Picture:
    @staticmethod
    def from_pixels(pixels: bytes, size: tuple[int, int], channels: int, bits: int) -> Picture: ...
    @staticmethod
    def read(file: str | os.PathLike[str] | bytes, options: dict[str, Any]) -> Picture: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def is_grey(self) -> bool: ...
    @property
    def has_alpha(self) -> bool: ...
    @property
    def bit_depth(self) -> int: ...
    @property
    def icc(self) -> bytes | None: ...
    @property
    def exif(self) -> bytes | None: ...
    @property
    def dpi(self) -> tuple[float, float] | None: ...

@final
class Engine:
    def __new__(cls, options: dict[str, Any]) -> Engine: ...
    @property
    def name(self) -> str: ...
    @property
    def devices(self) -> list[str]: ...
    @property
    def computes_on(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    def upscale(
        self,
        picture: Picture,
        form: tuple[int, int],
        progress: Callable[[Progress], bool | None] | None,
        options: dict[str, Any],
    ) -> tuple[bytearray, int, int]: ...
    def upscale_file(
        self,
        source: str | os.PathLike[str] | bytes,
        to: str | os.PathLike[str],
        progress: Callable[[Progress], bool | None] | None,
        options: dict[str, Any],
    ) -> str: ...
    def plan(self, size: tuple[int, int], alpha: bool, options: dict[str, Any]) -> str: ...
    def caption(
        self,
        picture: Picture,
        progress: Callable[[Progress], bool | None] | None,
        options: dict[str, Any],
    ) -> str: ...

def models() -> str: ...
def read_settings(path: str | os.PathLike[str]) -> str | None: ...
def set_threads(asked: int) -> int: ...
