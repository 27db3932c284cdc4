"""A training step as a fixed graph of tensor operations: captured from one run, replayed as it is or compiled."""

import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from multipyro.batch import batch_rows, modalities_in
from multipyro.data import Batch
from multipyro.inference.objectives import Objective
from multipyro.inference.objectives.families import SubsetFamily
from multipyro.inference.objectives.spec import instances_in
from multipyro.inference.programs import substitute
from multipyro.inference.training.devices import Worker

__all__ = ["CapturedGradients", "StepGraph"]

# What "auto" expects, in seconds: a capture takes a few and saves a tenth of a step, so that it pays from so long on; a
# compilation takes so long for each operation and saves such a share of a step. Twice its time must be won back.
_CAPTURE_FROM, _COMPILE_PER_NODE, _COMPILE_SAVES = 40.0, 0.1, 1 / 7
# more kinds of steps than these are not captured
_MOST_GRAPHS = 8
# where an error comes from that has a cause in a program
_LIBRARIES = re.compile(r"[\\/](torch|pyro|contextlib\.py)\b")


class StepGraph:
    """The loss of a batch and its gradients, as the operations of one run on a batch like it.

    All tensors but those of the batch are used by reference: parameters, buffers and weights that are changed in place
    have their present values whenever the graph is called, and random numbers are drawn anew.

    Args:
        loss: From a batch `(x, observed)` to a loss that can be differentiated.
        parameters: What the gradients are with respect to.
        batch: The batch.

    Attributes:
        num_nodes: The number of operations.

    Raises:
        ValueError: If a shape depends on the values of the batch.
        Exception: Whatever else a program raises that cannot be captured, such as one that reads a value.
    """

    def __init__(self, loss: Callable[[Any, Any], Tensor], parameters: Sequence[Tensor], batch: Batch) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.graph import CodeGen

        names, masked = list(batch[0]), batch[1] and list(batch[1])

        def run(*values: Tensor) -> list[Tensor | None]:
            x = dict(zip(names, values, strict=False))
            observed = masked and dict(zip(masked, values[len(names) :], strict=True))
            result = loss(x, observed)
            gradients = torch.autograd.grad(result, parameters, allow_unused=True)
            return [result.detach(), *_laid_out(gradients, parameters)]

        with pyro.validation_enabled(False):  # which reads values
            module = make_fx(run)(*_values(batch))
        graph, inputs = module.graph, {}
        if any(map(_depends_on_values, graph.nodes)):
            raise ValueError("a program selects rows, whose number depends on the batch")
        first = next(node for node in graph.nodes if node.op != "placeholder")
        for node in [node for node in graph.nodes if node.op == "get_attr"]:
            if node.target not in inputs:
                with graph.inserting_before(first):
                    inputs[node.target] = graph.placeholder(node.target)
            node.replace_all_uses_with(inputs[node.target])
            graph.erase_node(node)
        graph.set_codegen(CodeGen())
        module.recompile()
        self._run: Callable[..., Any] = module
        self._others = [getattr(module, name) for name in inputs]
        self.num_nodes = len(graph.nodes)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[Tensor | None]:
        """The loss, and the gradient of each parameter; None for one that the loss does not depend on."""
        return self._run(*_values(batch), *self._others)

    @torch.no_grad()
    def compile(self, batch: Batch) -> None:
        """Compiles the graph; needs a C++ compiler, on a GPU Triton. Its random numbers stay those of torch."""
        from torch import _inductor as inductor

        inputs = [*_values(batch), *self._others]
        self._run = inductor.compile(self._run, inputs, options={"fallback_random": True})


class CapturedGradients:
    """The loss and the gradients of batches: by the programs themselves, or by graphs captured from them.

    There is a graph for each kind of step: for the batches that are as large as the first of their epoch, by their
    entries and by the random subsets of the objective. Other batches, and all while `mode` is `"eager"`, are left to
    the programs. The result of a graph is compared with that of the programs in its first step, and again in epochs 0,
    1, 2, 4, 8 and so on. If a graph cannot be captured, or its result differs by more than rounding, the programs
    compute all further steps.

    Args:
        eager: Computes the gradients of a batch by the programs, leaves them in the parameters, returns the loss.
        loss: From an objective and a batch to the loss that is differentiated.
        objective: The objective.
        parameters: What is trained, a list that may grow.
        buffers: What else a step changes, such as the statistics of batch norm.
        worker: This process.
        note: Called with a line that says why there is no graph, or no compiled one.

    Attributes:
        mode: `"eager"`, `"replayed"` or `"compiled"`.
    """

    def __init__(
        self,
        eager: Callable[..., Tensor],
        loss: Callable[..., Tensor],
        objective: Any,
        parameters: list[Tensor],
        buffers: Sequence[Tensor],
        worker: Worker,
        note: Callable[[str], None],
    ) -> None:
        self.mode = "eager"
        self._eager, self._loss, self._objective, self._parameters = eager, loss, objective, parameters
        self._buffers, self._worker, self._note = buffers, worker, note
        self._is_random = any(family.is_random for family in instances_in(objective, SubsetFamily))
        self._graphs: dict[Any, StepGraph] = {}
        self._checked: set[Any] = set()
        self._rows: int | None = None

    def start_epoch(self, epoch: int) -> None:
        """Before the first step of an epoch, counted from 0 in a stage."""
        self._rows = None
        if epoch & (epoch - 1) == 0:
            self._checked.clear()

    def __call__(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None) -> Tensor:
        """The loss of a batch, after leaving its gradients in the parameters."""
        self._rows = self._rows or batch_rows(x)
        if self.mode == "eager" or batch_rows(x) != self._rows:
            return self._eager(x, observed)
        batch, generator = (x, observed), torch.get_rng_state() if self._is_random else None
        _, key = self._structure(batch)
        if key not in self._checked:
            if generator is not None:
                torch.set_rng_state(generator)
            if not self._check(batch):
                self.mode = "eager"
                return self._eager(x, observed)
            _, key = self._structure(batch)
        loss, *gradients = self._graphs[key](batch)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def choose(self, batch: Batch, seconds: float) -> None:
        """Sets the mode: captures, and compiles, if that is expected to win back its time.

        Args:
            batch: A batch of the usual size.
            seconds: How long the programs would take for all further steps.
        """
        if seconds < _CAPTURE_FROM:
            return
        self.mode = "replayed"
        self.start_epoch(0)
        with self._undone():
            self(*batch)
            nodes = sum(graph.num_nodes for graph in self._graphs.values())
            if self.mode == "replayed" and seconds * _COMPILE_SAVES > 2 * _COMPILE_PER_NODE * nodes:
                self.mode = "compiled"
                self._graphs.clear()
                self.start_epoch(0)
                self(*batch)
            if self.mode != "eager":
                times = [[_seconds(function, batch) for function in (self._eager, self)] for _ in range(5)]
                eager, captured = map(min, zip(*times, strict=True))
                if captured > eager:
                    self.mode = "eager"
                    self._note("steps are not captured: the captured step is slower")

    def _check(self, batch: Batch) -> bool:
        """Compares the graph of a batch, captured if it is new, with the programs; says where they differ."""
        with self._undone():
            expected = [self._eager(*batch), *(parameter.grad for parameter in self._parameters)]
        try:
            with self._undone():
                objective, key = self._structure(batch)
                if key not in self._graphs:
                    self._graphs[key] = self._captured(objective, batch)
                if not _agree(self._graphs[key](batch), expected, 5e-2 if self._worker.mixed_precision else 1e-3):
                    raise ValueError("the captured step gives another loss or other gradients")
        except Exception as error:  # whatever programs, torch or a compiler raise
            self._note(f"steps are not captured: {_reason(error)}")
            return False
        self._checked.add(key)
        return True

    def _structure(self, batch: Batch) -> tuple[Any, Any]:
        """The objective with the random subsets of this step, and what a graph of it is for."""
        drawn: list[SubsetFamily] = []

        def draw(part: Any) -> Any:
            if isinstance(part, SubsetFamily) and part.is_random:
                drawn.append(part.drawn(modalities_in(batch[0])))
                return drawn[-1]
            return part

        objective = substitute(self._objective, draw) if self._is_random else self._objective
        entries = [(name, values.shape, values.dtype) for part in batch if part for name, values in part.items()]
        return objective, (len(self._parameters), *drawn, *entries)

    def _captured(self, objective: Any, batch: Batch) -> StepGraph:
        if self._worker.size > 1:
            raise ValueError("several processes train together")
        if not isinstance(objective, Objective):
            raise TypeError(f"{type(objective).__name__} is not an objective of multipyro")
        if len(self._graphs) == _MOST_GRAPHS:
            raise ValueError(f"there are more than {_MOST_GRAPHS} kinds of steps")
        with self._undone(), _no_warnings():
            graph = StepGraph(lambda *batch: self._loss(objective, *batch), self._parameters, batch)
        if self.mode == "compiled":
            try:
                with _no_warnings():
                    graph.compile(batch)
            except Exception as error:  # there is no compiler, or it fails
                self.mode = "replayed"
                self._note(f"steps are captured but not compiled: {_reason(error)}")
        return graph

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Resets generators and buffers after this context to what they were before."""
        buffers = [buffer.clone() for buffer in self._buffers]
        try:
            with torch.random.fork_rng([self._worker.device] if self._worker.device.type == "cuda" else []):
                yield
        finally:
            for buffer, saved in zip(self._buffers, buffers, strict=True):
                buffer.copy_(saved)


def _no_warnings() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore")


def _values(batch: Batch) -> list[Tensor]:
    return [values for part in batch if part for values in part.values()]


def _depends_on_values(node: Any) -> bool:
    """Whether the shape of what a node returns depends on values: the graph would have that of the captured batch."""
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    if node.target is not torch.ops.aten.index.Tensor:
        return True
    return any(index is not None and index.meta["val"].dtype in (torch.bool, torch.uint8) for index in node.args[1])


def _laid_out(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Iterator[Tensor | None]:
    """Gradients in the memory layout of their parameters, as fused optimizers need them, no two in the same memory."""
    places: set[int] = set()
    for gradient, parameter in zip(gradients, parameters, strict=True):
        place = 0 if gradient is None else gradient.untyped_storage().data_ptr()
        is_copied = gradient is not None and (gradient.stride() != parameter.stride() or place in places)
        places.add(place)
        yield torch.empty_like(parameter).copy_(gradient) if is_copied else gradient


def _seconds(function: Callable[..., Tensor], batch: Batch) -> float:
    started = time.perf_counter()
    float(function(*batch))  # waits for the device
    return time.perf_counter() - started


def _agree(result: Sequence[Tensor | None], expected: Sequence[Tensor | None], rounding: float) -> bool:
    """Whether the loss and the gradients are the same up to rounding."""
    if [value is None for value in result] != [value is None for value in expected]:
        return False
    (loss, *gradients), (true_loss, *true) = ([v.detach() for v in vs if v is not None] for vs in (result, expected))
    largest = max(gradient.abs().max() for gradient in true)
    limits = [rounding * max(gradient.abs().max(), rounding * largest) for gradient in true]
    is_close = [(a - b).abs().max() <= limit for a, b, limit in zip(gradients, true, limits, strict=True)]
    return bool((loss - true_loss).abs() <= rounding * true_loss.abs()) and all(is_close)


def _reason(error: Exception) -> str:
    """An error in one line, with the place in the programs that it came from."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "tracing tensor" in text:
        text = "a program depends on the values of a tensor"
    frames = traceback.extract_tb(error.__traceback__)
    places = [f for f in frames if f.filename != __file__ and not _LIBRARIES.search(f.filename)]
    return f"{text} ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else text
