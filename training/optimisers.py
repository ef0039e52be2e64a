"""Optimisers for the miniature: Muon for matrices, AdamW for the rest, and weight averaging."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

# Keller Jordan, "Muon" (kellerjordan.github.io/posts/muon): five iterations of a quintic bring all
# singular values near 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


@torch.no_grad()  # threads do not inherit it
def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Approximately the nearest semi-orthogonal matrix, `(rows, columns)`."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised steps; tensors of more dimensions become matrices.

    Args:
        params: matrices and tensors of more dimensions.
        lr: the learning rate.
        momentum: the share of the momentum that stays after a step.
        workers: above 1, so many threads orthogonalise the matrices, each with one core. The values
            are those of one thread.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        workers: int = 1,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self._threads = None
        if workers > 1:
            self._threads = ThreadPoolExecutor(
                workers, initializer=torch.set_num_threads, initargs=(1,)
            )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            matrices = [self._ahead(each, group["momentum"]).flatten(1) for each in parameters]
            every = self._threads.map if self._threads else map
            for parameter, step in zip(parameters, every(orthogonalise, matrices), strict=True):
                rows, columns = step.shape
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.add_(step.view_as(parameter), alpha=-rate)

    def _ahead(self, parameter: nn.Parameter, share: float) -> torch.Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["momentum"].lerp_(parameter.grad, 1 - share)
        return parameter.grad.lerp(momentum, share)


def optimisers(
    model: nn.Module,
    muon_rate: float,
    adam_rate: float,
    apart: Sequence[str] = (),
    workers: int = 1,
) -> list[torch.optim.Optimizer]:
    """Muon for matrices and convolutions; AdamW for vectors and the modules named in `apart`.

    `workers` is the number of Muon's threads.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not any(part in name for part in apart)
            (matrices if is_matrix else others).append(parameter)
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(matrices, muon_rate, workers=workers))
    if others:
        made.append(torch.optim.AdamW(others, adam_rate, betas=(0.9, 0.98), weight_decay=0.0))
    for each in made:
        for group in each.param_groups:
            group["full_rate"] = group["lr"]
    return made


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Sets the learning rate to a share of its full value."""
    for group in optimiser.param_groups:
        group["lr"] = group["full_rate"] * share


def rate_share(step: int, steps: int, warm_up: int = 20, decay: float = 0.5) -> float:
    """A warm-up, the full rate, then a linear decay to zero over the share `decay` of the steps."""
    rise = min(1.0, (step + 1) / warm_up)
    return rise * min(1.0, (steps - step) / max(1.0, decay * steps))


class Average:
    """An exponential moving average of a model's parameters."""

    def __init__(self, model: nn.Module, horizon: float) -> None:
        self.horizon = horizon
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the model; faster in the first steps."""
        weight = max(1 / self.horizon, 1 / (step + 1))
        for name, value in model.named_parameters():
            self.values[name].lerp_(value.detach(), weight)

    def copy_to(self, model: nn.Module) -> None:
        """Copies the average into the model."""
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(self.values[name])
