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
    """Whether a text is meant as an address of the hub; `parse_address` tells if it is right."""
    return text.startswith(PREFIX)


def parse_address(text: str) -> HubAddress:
    """The parts of an address; BundleError when it is not of the form."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        # The text is not repeated: people put passwords into addresses.
        raise BundleError(
            "the address is not of the form hf://owner/repository[@revision] or, for one file, "
            "hf://owner/repository[@revision]/file"
        )
    return HubAddress(match["repository"], match["revision"], match["file"].removeprefix("/"))


def parse_repository(text: str) -> HubAddress:
    """The address of a whole repository; BundleError when it is not of the form.

    Nothing can follow the revision here, so that it may hold slashes, as in `@refs/pr/1`.
    """
    address = parse_address(text)
    if not address.path:
        return address
    if address.revision is None:
        raise BundleError(
            "the address of a bundle is not of the form hf://owner/repository[@revision]; it "
            "names a file"
        )
    return HubAddress(address.repository, f"{address.revision}/{address.path}")
