"""Addresses on the Hugging Face hub: `hf://owner/repository[@revision][/file]`."""

import re
from dataclasses import dataclass

from dream_o.errors import BundleError

PREFIX = "hf://"
DEFAULT_REVISION = "main"

_NAME = r"(?!\.+(?:[/@]|$))[\w.-]+"
_ADDRESS = re.compile(
    rf"hf://(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>[\w.-]+))?"
    rf"(?P<file>(?:/{_NAME})*)",
    re.ASCII,
)


@dataclass(frozen=True)
class HubAddress:
    """A repository of the hub, or one file or folder in it.

    Attributes:
        repository: `owner/name`.
        revision: a branch, tag or commit; None for the default branch.
        path: a file or folder in the repository; empty for all of it.
    """

    repository: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return PREFIX + self.repository + revision + (f"/{self.path}" if self.path else "")


def is_hub_address(text: str) -> bool:
    """Whether a text starts like a hub address; `parse_address` checks the rest."""
    return text.startswith(PREFIX)


def parse_address(text: str) -> HubAddress:
    """Parses an address; raises BundleError if it does not have the form."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        # The message does not repeat the text, because addresses can contain passwords.
        raise BundleError(
            "the address must have the form hf://owner/repository[@revision] or, for one file, "
            "hf://owner/repository[@revision]/file"
        )
    return HubAddress(match["repository"], match["revision"], match["file"].removeprefix("/"))


def parse_repository(text: str) -> HubAddress:
    """Parses the address of a whole repository; raises BundleError if it does not have the form.

    No file follows the revision, so the revision can contain slashes, as in `@refs/pr/1`.
    """
    address = parse_address(text)
    if not address.path:
        return address
    if address.revision is None:
        raise BundleError(
            "the address of a bundle must have the form hf://owner/repository[@revision]; this one "
            "names a file"
        )
    return HubAddress(address.repository, f"{address.revision}/{address.path}")
