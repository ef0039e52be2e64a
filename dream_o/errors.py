"""Errors that a user can cause. Each message is one sentence."""

import errno
from collections.abc import Mapping


class UserError(Exception):
    """An error that the caller can fix; `str(error)` is one sentence that can be shown to them.

    The sentence says what is wrong and what is allowed. It never contains a path of this machine,
    a secret or a traceback.
    """


class InputError(UserError):
    """An input of a request cannot be used.

    Args:
        name: the input as the caller knows it, such as `ref_image1`.
        problem: what is wrong and what is allowed, without the name.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name
        self.problem = problem


class SettingError(UserError):
    """An environment variable has a value that cannot be used.

    Args:
        variable: its name.
        value: its value.
        problem: what is wrong and what is allowed, such as `is not one of cpu or cuda`.
    """

    def __init__(self, variable: str, value: str, problem: str) -> None:
        super().__init__(f"{variable}={value!r} {problem}")
        self.variable = variable


class OutOfMemoryError(UserError):
    """A library other than torch ran out of memory; the message says what helps."""


class BundleError(UserError):
    """A weights bundle, or a file that a bundle is made from, cannot be used."""


_PROBLEMS: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this machine allows",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "there is no permission for it",
    errno.EPERM: "there is no permission for it",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
}


def disk_problem(error: OSError) -> str:
    """What went wrong, in a few words that do not name the file."""
    known = _PROBLEMS.get(error.errno or 0)
    return known or error.strerror or type(error).__name__
