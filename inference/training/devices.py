"""The device of this process, and the processes that train together."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multipyro._optional import optional_imports
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["Worker", "connect"]


@dataclass(frozen=True)
class Worker:
    """This process among those of a run.

    Args:
        device: Where it computes.
        mixed_precision: Whether it computes in bfloat16 where autocast does.
        rank: Its number.
        size: The number of processes.
        is_main: Whether it writes the files of the run and reports; the others only train.
    """

    device: torch.device
    mixed_precision: bool
    rank: int = 0
    size: int = 1
    is_main: bool = True

    def seed(self, seed: int) -> None:
        """Seeds the generators that programs draw from, as `torch.manual_seed` does at a hundred times the cost."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.mixed_precision else nullcontext()

    @contextmanager
    def hosting(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Moves the modules to the device in this context; restores gradients, seeds and warning filters afterwards."""
        visiting = [m for m in modules if all(parameter.device.type == "cpu" for parameter in m.parameters())]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            # NonFiniteLossError has the details
            warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)")
            for module in modules:
                module.to(self.device)
            try:
                yield
            finally:
                for module in modules:
                    module.zero_grad()  # a plain loop afterwards would add to them
                    if module in visiting:
                        module.cpu()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            value = value.to(self.device)
            torch.distributed.all_reduce(value)
        return value

    def sum_gradients(self, loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The loss of all processes together; their gradients are summed too, because losses are sums over examples."""
        if self.size == 1:
            return loss
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        present = loss.new_tensor([*(float(p.grad is not None) for p in parameters), float(loss)])
        total = self.sum(torch.cat([*gradients, present]))
        *sums, present = total.split([*map(len, gradients), len(present)])
        for parameter, gradient, count in zip(parameters, sums, present[:-1].tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if count else None
        return present[-1]


def connect(settings: TrainingSettings) -> Worker:
    """Chooses the device of this process, after finding or starting the other processes of a run on several devices.

    Processes that `torchrun` started train together whatever `devices` says. Others are started by Lightning Fabric,
    which takes seconds to import.

    Raises:
        ValueError: If a device is not available.
    """
    device, devices, nodes, mixed = settings.device, settings.devices, 1, settings.precision == "bf16-mixed"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, index = torch.device(device).type, torch.device(device).index
    if torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    available = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind in available and max((index or 0) + 1, devices) > available[kind]:
        raise ValueError(f"device {settings.device!r} is not available: there are {available[kind]} of {kind}")
    if devices * nodes > 1:
        if index is not None:
            raise ValueError(f"device {settings.device!r} is a single one, but devices is {devices}")
        with optional_imports("training on several devices"):
            from lightning_fabric import Fabric

        fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy="ddp")
        fabric.launch()
        return Worker(fabric.device, mixed, fabric.global_rank, fabric.world_size, fabric.is_global_zero)
    # a script that was started again, for a run on several devices, trains alone elsewhere and writes nothing
    is_main = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
    return Worker(torch.device(kind, index or 0) if kind == "cuda" else torch.device(kind), mixed, is_main=is_main)
