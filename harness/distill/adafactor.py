"""Adafactor as the paper trains with it: a given learning rate, factored second moments, no first moment.

The update is that of Shazeer and Stern (2018) in transformers' reading (relative_step=False, decay -0.8,
update clipped at RMS 1), checked against it in float32. One thing is added: how bfloat16 weights take an
update. At lr 5e-5 and weights of 0.02 an update is a fraction of a bfloat16 step, and rounding to nearest
drops most of it:

    nearest       the weight takes the nearest bfloat16: what the paper's code does. Small updates are lost.
    stochastic    rounds up or down with the probability that keeps the expectation. Costs no memory; the only
                  remedy that fits 13B on one 80 GB card.
    master        a float32 copy of the weight takes the update and is rounded to nearest. 4 bytes a weight
    more.

For float32 weights the three are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch

Rounding = Literal["nearest", "stochastic", "master"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "stochastic", "master")

DECAY = -0.8
EPS_SQUARE = 1e-30
EPS_SCALE = 1e-3
CLIP_RMS = 1.0
_PIECE = 1 << 24


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a choice of rounding.

    Args:
        params: Weights, or groups of them.
        lr: Learning rate; a schedule sets `param_groups[i]["lr"]`, and `clip_gradients` a factor beside it.
        scale_parameter: Multiply the learning rate by the weight's RMS (at least 1e-3). Has no default: the
            authors' code differs in it between the regimes, which makes the two learning rates incomparable.
        weight_decay: Decoupled, times the learning rate.
        rounding: How 16-bit weights take an update; see the module.
        seed: Of the stochastic rounding.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        scale_parameter: bool,
        weight_decay: float = 0.0,
        rounding: Rounding = "stochastic",
        seed: int = 0,
    ) -> None:
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding={rounding!r}, expected one of {', '.join(ROUNDINGS)}")
        super().__init__(params, {"lr": lr, "scale_parameter": scale_parameter, "weight_decay": weight_decay})
        self.rounding = rounding
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step with the gradients at hand; parameters without one are left alone.

        Temporaries of the parameter at work: three float32 tensors of its size at most.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def _step_one(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        half = parameter.dtype in (torch.bfloat16, torch.float16)
        if not state:
            self._start(parameter, state, half)
        state["step"] += 1
        rate = float(group["lr"])
        # A copy always: the gradient itself stays what it is, in case somebody looks at it.
        update = parameter.grad.float() if half else parameter.grad.clone()  # type: ignore[union-attr]
        if "gradient_factor" in group:
            update.mul_(group["gradient_factor"])
        beta = 1.0 - float(state["step"]) ** DECAY
        square = update.square().add_(EPS_SQUARE)
        if "row" in state:
            row, column = state["row"], state["column"]
            row.mul_(beta).add_(square.mean(dim=-1), alpha=1.0 - beta)
            column.mul_(beta).add_(square.mean(dim=-2), alpha=1.0 - beta)
            del square
            update.mul_((row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1))
            update.mul_(column.rsqrt().unsqueeze(-2))
        else:
            state["square"].mul_(beta).add_(square, alpha=1.0 - beta)
            update.mul_(state["square"].rsqrt())
            del square
        update.div_((_rms(update) / CLIP_RMS).clamp_(min=1.0))
        value = state["master"] if "master" in state else parameter.float() if half else parameter
        if group["scale_parameter"]:
            update.mul_(_rms(value).clamp_(min=EPS_SCALE))
            decay = rate * _rms(value).clamp_(min=EPS_SCALE) * group["weight_decay"]
        else:
            decay = rate * group["weight_decay"]
        if group["weight_decay"]:
            value.sub_(value * decay)
        value.sub_(update.mul_(rate))
        if not half:
            return
        if self.rounding == "stochastic" and parameter.dtype == torch.bfloat16:
            copy_stochastic(parameter, value, self._generator(parameter.device))
        else:
            parameter.copy_(value)

    def _start(self, parameter: torch.Tensor, state: dict[str, Any], half: bool) -> None:
        wide = torch.float32 if half else parameter.dtype
        place = parameter.device
        state["step"] = torch.zeros((), dtype=torch.int64)
        if parameter.ndim >= 2:
            state["row"] = torch.zeros(parameter.shape[:-1], dtype=wide, device=place)
            state["column"] = torch.zeros(
                parameter.shape[:-2] + parameter.shape[-1:], dtype=wide, device=place
            )
        else:
            state["square"] = torch.zeros(parameter.shape, dtype=wide, device=place)
        if half and self.rounding == "master":
            state["master"] = parameter.to(wide, copy=True)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def export(self, names: dict[torch.nn.Parameter, str]) -> dict[str, torch.Tensor]:
        """The whole state as named tensors in their own types, random generators included.

        (`state_dict` and `load_state_dict` would round the moments to the weights' type.)
        """
        result = {f"rng/{device}": generator.get_state() for device, generator in self._generators.items()}
        for parameter, state in self.state.items():
            result |= {f"{key}/{names[cast(Any, parameter)]}": value for key, value in state.items()}
        return result

    def restore(self, tensors: dict[str, torch.Tensor], names: dict[torch.nn.Parameter, str]) -> None:
        """Take over what `export` gave."""
        by_name = {name: parameter for parameter, name in names.items()}
        self.state.clear()
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "rng":
                self._generator(torch.device(name)).set_state(value.cpu())
            else:
                parameter = by_name[name]
                place = "cpu" if kind == "step" else parameter.device
                self.state[parameter][kind] = value.to(place, copy=True)


def clip_gradients(optimizer: torch.optim.Optimizer, bound: float) -> torch.Tensor:
    """Have the next step scale the gradients so that their common norm is at most `bound` (0: only measure).

    The gradients stay as they are: scaled in place, those of 16 bits would be rounded again.

    Returns:
        The norm before; float32, or float64 where a gradient is.
    """
    groups = optimizer.param_groups
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
    norm: torch.Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(gradient, dtype=wide) for gradient in gradients])
    )
    for group in groups:
        group.pop("gradient_factor", None)
        if bound > 0.0:
            group["gradient_factor"] = (bound / (norm + 1e-6)).clamp(max=1.0)
    return norm


def copy_stochastic(target: torch.Tensor, source: torch.Tensor, generator: torch.Generator) -> None:
    """Round float32 to bfloat16, up or down with the probability that keeps the expectation.

    A bfloat16 is the upper half of a float32: a random number of 16 bits is added and the lower half cut off.
    Infinities and NaN stay what they are.

    Args:
        target: bfloat16, contiguous, written to.
        source: float32 of the same shape.
        generator: Source of the random bits, on the tensors' device.
    """
    flat_target, flat_source = target.view(-1), source.contiguous().view(-1)
    for start in range(0, flat_source.numel(), _PIECE):
        bits = flat_source[start : start + _PIECE].view(torch.int32)
        noise = torch.randint(
            0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator
        )
        noise.add_(bits).bitwise_and_(-65536)
        piece = noise.view(torch.float32)
        original = bits.view(torch.float32)
        flat_target[start : start + _PIECE] = torch.where(original.isfinite(), piece, original)


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.linalg.vector_norm(tensor) / float(tensor.numel()) ** 0.5
    return result
