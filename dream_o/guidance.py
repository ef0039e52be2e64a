"""When true classifier-free guidance is on. Imports no torch, so requests are checked quickly."""


def true_cfg_steps(scale: float, start: int, end: int, steps: int) -> range:
    """The steps `start <= i < end` that need a negative pass; empty if true CFG is off.

    True CFG is off if `scale` is 1 or less.
    """
    return range(start, min(end, steps)) if scale > 1 else range(0)
