"""How pytest-xdist's processes share the tests: one group after the other, the longest first."""

from xdist.scheduler import LoadFileScheduling

# Files of a folder that share servers or models are one group, so that each is started once.
FOLDERS = ("tests/page/", "tests/server/")
# A group that takes long and begins last would end the run alone. Groups that are not named here
# begin after these.
LONGEST = (
    "tests/server/",
    "tests/batch/test_on_ray.py",
    "tests/test_compiled.py",
    "tests/page/",
)


def group_of(nodeid: str) -> str:
    """The group of a test: its file, or the folder whose servers or models it shares."""
    return next((each for each in FOLDERS if nodeid.startswith(each)), nodeid.partition("::")[0])


def place_of(nodeid: str) -> int:
    """The place of a test's group; tests of one place keep their order."""
    group = group_of(nodeid)
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)


class GroupScheduling(LoadFileScheduling):
    """Gives a process one group after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
