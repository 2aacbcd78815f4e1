"""Errors. Each has a message of one line: what, where, and what helps."""

from __future__ import annotations

import builtins


class Error(RuntimeError):
    """The base of all errors of this package."""


class InputError(Error, ValueError):
    """A picture or captions that cannot be read, or an array of a shape or type that is none of a picture."""


class InputNotFoundError(InputError, FileNotFoundError):
    """A file of a picture that is not there."""


class SettingsError(Error, ValueError):
    """A setting that is out of its range, names nothing, or does not go with another or with the model."""


class ModelError(Error):
    """A model that is not there, not downloaded, damaged, or not supported."""


class DeviceError(Error):
    """A device that this build or this machine does not have."""


class OutOfMemoryError(Error, builtins.MemoryError):
    """A job that does not fit into the memory that it may use."""


class OutputError(Error, OSError):
    """A file that cannot be written, or a disk that is too full."""


class WorkError(Error):
    """Unfinished work that is in the way: of another job, of another process, or damaged; or none to go on with."""


class Interrupted(Error):
    """The progress callback returned False."""
