"""When true classifier-free guidance is on. Imports no torch: requests are checked with it."""


def true_cfg_steps(scale: float, start: int, end: int, steps: int) -> range:
    """The steps `start <= i < end` in which true CFG makes a negative pass; empty where it is off.

    A `scale` of 1 or less is off.
    """
    return range(start, min(end, steps)) if scale > 1 else range(0)
