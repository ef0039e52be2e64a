"""How pytest-xdist's processes share the tests: one group after the other, the longest first."""

from xdist.scheduler import LoadFileScheduling

# Tests that share servers, models or a process to fork are one group, so that each is started
# once. A test belongs to the group that lists the beginning of its path.
GROUPS = {
    "page": ("tests/page/",),
    "server": ("tests/server/",),
    "forked": (
        "tests/dream_render/test_log.py",
        "tests/test_parallel.py",
        "tests/test_predict_script.py",
        "tests/test_predict_several.py",
        "tests/training/test_evaluation.py",
        "tests/weights/test_fuse.py",
        "tests/weights/test_killed.py",
    ),
}
# A group that takes long and begins last would end the run alone. Groups that are not named here,
# such as most files, begin after these.
LONGEST = (
    "server",
    "tests/batch/test_on_ray.py",
    "forked",
    "tests/test_compiled.py",
    "page",
)


def group_of(nodeid: str) -> str:
    """The group of a test: one of GROUPS, or its file."""
    shared = (name for name, begins in GROUPS.items() if nodeid.startswith(begins))
    return next(shared, nodeid.partition("::")[0])


def place_of(nodeid: str) -> int:
    """The place of a test's group; tests of one place keep their order."""
    group = group_of(nodeid)
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)


class GroupScheduling(LoadFileScheduling):
    """Gives a process one group after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
