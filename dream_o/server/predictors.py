"""Loads predictors by their reference in `cog.yaml`, `FILE:CLASS`."""

import argparse
import warnings
from typing import Any, NoReturn

from cog.predictor import load_predictor_from_ref

from dream_o.errors import UserError
from dream_o.paths import SHIPPED

DEFAULT = "predict.py:Predictor"


class Parser(argparse.ArgumentParser):
    """Raises UserError on a wrong argument, instead of printing the usage and exiting with 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def absolute(reference: str) -> str:
    """The reference with the file's absolute path; a relative file is part of this project.

    Raises:
        UserError: the file does not exist, or no class is named.
    """
    file, colon, name = reference.rpartition(":")
    if not colon or not name.isidentifier():
        raise UserError(f"-p {reference}: give FILE:CLASS, such as {DEFAULT}")
    path = SHIPPED / file
    if not path.is_file():
        raise UserError(
            f"-p {reference}: the file {file} does not exist; give FILE:CLASS, such as {DEFAULT}"
        )
    return f"{path}:{name}"


def load_predictor(reference: str) -> Any:
    """An instance of the predictor, before its `setup`.

    Raises:
        UserError: the reference does not name a predictor.
    """
    full = absolute(reference)
    with warnings.catch_warnings():
        # BasePredictor and predict() are Cog's older names, which every current Cog supports.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return load_predictor_from_ref(full)
        except AttributeError as error:
            name = full.rpartition(":")[2]
            if name not in str(error):
                raise
            raise UserError(f"-p {reference}: the file has no class {name}") from error
        except (ImportError, SyntaxError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"-p {reference}: no predictor can be loaded: {reason}") from error
