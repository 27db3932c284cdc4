"""The loss and gradients of a step, captured as a graph of tensor operations that is replayed as it is or compiled."""

import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from multipyro.batch import batch_rows, modalities_in
from multipyro.data import Batch
from multipyro.inference.objectives import Objective
from multipyro.inference.objectives.families import SubsetFamily
from multipyro.inference.objectives.spec import instances_in, packages_of
from multipyro.inference.programs import substitute

__all__ = ["CapturedGradients", "StepGraph", "repeats_itself"]

# Assumptions of `compile="auto"`. Capturing takes a few seconds and saves a tenth of each step, so it pays off if at
# least _CAPTURE_FROM seconds of training remain. Compiling takes _COMPILE_PER_NODE seconds per operation and saves the
# share _COMPILE_SAVES of each step; it must save at least twice the time that it takes.
_CAPTURE_FROM, _COMPILE_PER_NODE, _COMPILE_SAVES = 40.0, 0.1, 1 / 7
# steps of more different kinds than this are not captured
_MOST_GRAPHS = 8
# frames of these libraries are skipped in the search for the line of a program that caused an error
_LIBRARIES = re.compile(r"[\\/](torch|pyro|contextlib\.py)\b")


class StepGraph:
    """The loss of a batch and its gradients, as a graph of the operations recorded on one batch.

    All tensors except those of the batch are used by reference: parameters, buffers and weights that change in place
    have their current values whenever the graph is called. Each call samples new random numbers.

    Args:
        loss: Function of a batch `(x, observed)` that returns a differentiable loss.
        parameters: The tensors to differentiate with respect to.
        batch: The batch on which the operations are recorded.

    Attributes:
        graph: The operations.

    Raises:
        ValueError: If a shape depends on the values of the batch.
        Exception: Whatever a program raises that cannot be captured, for example because it reads a tensor's value.
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

        with pyro.validation_enabled(False):  # validation reads values
            module = make_fx(run)(*_values(batch))
        graph, inputs = module.graph, {}
        if any(map(_depends_on_values, graph.nodes)):
            raise ValueError("a program selects rows by a mask, so their number depends on the batch")
        first = next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
        for node in [node for node in graph.nodes if node.op == "get_attr"]:
            if node.target not in inputs:
                with graph.inserting_before(first):
                    inputs[node.target] = graph.placeholder(node.target)
            node.replace_all_uses_with(inputs[node.target])
            graph.erase_node(node)
        graph.set_codegen(CodeGen())
        module.recompile()
        self.graph, self._run = graph, module
        self._others = [getattr(module, name) for name in inputs]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[Tensor | None]:
        """The loss, and the gradient of each parameter; None for one that the loss does not depend on."""
        return self._run(*_values(batch), *self._others)

    @torch.no_grad()
    def compile(self, batch: Batch) -> None:
        """Compiles the graph, whose random numbers still come from torch. Needs a C++ compiler, or Triton on a GPU."""
        from torch import _inductor as inductor

        inputs = [*_values(batch), *self._others]
        # convolutions with channels last, which are faster on a GPU, cost more in copies than they save on a CPU
        options = {"fallback_random": True, "layout_optimization": inputs[0].device.type != "cpu"}
        self._run = inductor.compile(self._run, inputs, options=options)


class CapturedGradients:
    """Computes the loss and the gradients of batches, by the programs themselves or by graphs captured from them.

    Steps are of one kind if their batches have the same entries and the objective has the same random subsets; each
    kind has a separate graph. Graphs are used for batches that are as large as the first one. Other batches, and all
    batches while `mode` is `"eager"`, are left to the programs. The results of a graph are compared with those of the
    programs in its first step, and again after 1, 2, 4, 8 and so on steps. If a graph cannot be captured, or its result
    differs by more than rounding, the programs compute all further steps.

    Args:
        eager: Runs the programs on a batch, stores the gradients in the parameters and returns the loss.
        loss: Function of an objective and a batch that returns the loss to differentiate.
        objective: The objective.
        parameters: The trained parameters, a list that may grow.
        buffers: The other tensors that a step changes, such as the statistics of batch norm.
        rounding: The largest relative difference between the results of a graph and of the programs.
        note: Called with a one-line reason if steps are not captured, or not compiled.

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
        rounding: float,
        note: Callable[[str], None],
    ) -> None:
        self.mode = "eager"
        self._eager, self._loss, self._objective, self._parameters = eager, loss, objective, parameters
        self._buffers, self._rounding, self._note = buffers, rounding, note
        self._is_random = any(family.is_random for family in instances_in(objective, SubsetFamily))
        self._graphs: dict[Any, StepGraph] = {}
        self._checked: set[Any] = set()
        self._steps, self._rows = 0, 0
        # all kinds of steps that were ever captured, also before the run was resumed
        self._kinds: set[str] = set()

    def __call__(self, x: Mapping[str, Tensor], observed: Mapping[str, Tensor] | None) -> Tensor:
        """Returns the loss of a batch and stores its gradients in the parameters."""
        self._rows = self._rows or batch_rows(x)
        if self.mode == "eager" or batch_rows(x) != self._rows:
            return self._eager(x, observed)
        batch, generator = (x, observed), torch.get_rng_state() if self._is_random else None
        self._steps += 1
        if self._steps & (self._steps - 1) == 0:
            self._checked.clear()
        _, kind = self._structure(batch)
        if kind not in self._checked:
            if generator is not None:
                torch.set_rng_state(generator)
            if not self._check(batch):
                self.mode = "eager"
                return self._eager(x, observed)
            _, kind = self._structure(batch)
        loss, *gradients = self._graphs[kind](batch)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What decides how further steps are computed, so that a resumed run computes them in the same way."""
        return {"mode": self.mode, "rows": self._rows, "kinds": sorted(self._kinds)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.mode, self._rows, self._kinds = state["mode"], state["rows"], set(state["kinds"])

    def choose(self, batch: Batch, seconds: float) -> None:
        """Sets the mode: captures, and compiles, if this is expected to save more time than it takes.

        Args:
            batch: A batch of the usual size.
            seconds: Time that the programs would take for all remaining steps.
        """
        if seconds < _CAPTURE_FROM:
            return
        self.mode = "replayed"
        with self._undone():
            self(*batch)
            nodes = sum(len(captured.graph.nodes) for captured in self._graphs.values())
            if self.mode == "replayed" and seconds * _COMPILE_SAVES > 2 * _COMPILE_PER_NODE * nodes:
                self.mode = "compiled"
                self._graphs.clear()
                self._checked.clear()
                self(*batch)
            if self.mode != "eager":
                times = [[_seconds(function, batch) for function in (self._eager, self)] for _ in range(5)]
                eager, captured = map(min, zip(*times, strict=True))
                if captured > eager:
                    self.mode = "eager"
                    self._note("steps are not captured: the captured step is slower")

    def _check(self, batch: Batch) -> bool:
        """Whether the graph of a batch, captured first if needed, agrees with the programs; notes why if not."""
        with self._undone():
            expected = [self._eager(*batch), *(parameter.grad for parameter in self._parameters)]
        try:
            with self._undone():
                objective, kind = self._structure(batch)
                if kind not in self._graphs:
                    self._graphs[kind] = self._captured(objective, kind, batch)
                if not _agree(self._graphs[kind](batch), expected, self._rounding):
                    raise ValueError("the captured step gives a different loss or different gradients")
        except Exception as error:  # anything that programs, torch or a compiler may raise
            self._note(f"steps are not captured: {_reason(error)}")
            return False
        self._checked.add(kind)
        return True

    def _structure(self, batch: Batch) -> tuple[Any, tuple[Any, ...]]:
        """The objective with the random subsets of this step, and its kind."""
        subsets: list[Any] = []

        def draw(part: Any) -> Any:
            if isinstance(part, SubsetFamily) and part.is_random:
                part = part.drawn(modalities_in(batch[0]))
                subsets.append(part.chosen)
            return part

        objective = substitute(self._objective, draw) if self._is_random else self._objective
        entries = [(name, values.shape, values.dtype) for part in batch if part for name, values in part.items()]
        return objective, (len(self._parameters), *subsets, *entries)

    def _captured(self, objective: Any, kind: tuple[Any, ...], batch: Batch) -> StepGraph:
        if not isinstance(objective, Objective):
            raise TypeError(f"{type(objective).__name__} is not an objective of multipyro")
        if len(self._kinds | {str(kind)}) > _MOST_GRAPHS:
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
        self._kinds.add(str(kind))
        return graph

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Restores random generators and buffers at the end of this context."""
        buffers = [buffer.clone() for buffer in self._buffers]
        try:
            with torch.random.fork_rng(list({p.device for p in self._parameters if p.is_cuda})):
                yield
        finally:
            for buffer, saved in zip(self._buffers, buffers, strict=True):
                buffer.copy_(saved)


def repeats_itself(modules: Iterable[nn.Module], objectives: Iterable[Any], others: Iterable[Any]) -> bool:
    """Whether all parts of a step come from multipyro or torch, without hooks, so that each step does the same.

    Args:
        modules: The modules that the step runs.
        objectives: Its objectives.
        others: What else takes part in it, such as callbacks.
    """
    parts = [part for module in modules for part in module.modules()]
    packages = {type(part).__module__.partition(".")[0] for part in (*parts, *others)}
    packages = packages.union(*map(packages_of, objectives))
    is_hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    return packages <= {"multipyro", "torch"} and not is_hooked


def _no_warnings() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore")


def _values(batch: Batch) -> list[Tensor]:
    return [values for part in batch if part for values in part.values()]


def _depends_on_values(node: Any) -> bool:
    """Whether the shape of a node's output depends on values; the graph would fix it to that of the captured batch."""
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    if node.target is not torch.ops.aten.index.Tensor:
        return True
    return any(index is not None and index.meta["val"].dtype in (torch.bool, torch.uint8) for index in node.args[1])


def _laid_out(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Iterator[Tensor | None]:
    """Gradients in the memory layout of their parameters, as fused optimizers need them; no two share memory."""
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
    """Whether the loss and the gradients are the same up to rounding.

    Rounding also flips the sign of the gradient of single elements, as of a Laplace density at an exact reconstruction.
    A parameter may therefore differ by up to a hundredth, if all parameters together do not.
    """
    if [value is None for value in result] != [value is None for value in expected]:
        return False
    (loss, *gradients), (true_loss, *true) = ([v.detach() for v in vs if v is not None] for vs in (result, expected))
    errors = torch.stack([torch.linalg.vector_norm(a - b) for a, b in zip(gradients, true, strict=True)])
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in true])
    total = torch.linalg.vector_norm(norms)
    are_close = [
        (loss - true_loss).abs() <= rounding * true_loss.abs(),
        torch.linalg.vector_norm(errors) <= rounding * total,
        (errors <= max(rounding, 1e-2) * norms.clamp(min=rounding * total)).all(),
    ]
    return all(map(bool, are_close))


def _reason(error: Exception) -> str:
    """An error as one line, with the place in the programs that caused it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "tracing tensor" in text:
        text = "a program depends on the values of a tensor"
    frames = traceback.extract_tb(error.__traceback__)
    places = [f for f in frames if f.filename != __file__ and not _LIBRARIES.search(f.filename)]
    return f"{text} ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else text
