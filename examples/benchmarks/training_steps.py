"""How long does a training step take beside the same step written by hand in plain PyTorch? Prints ratios.

Two workloads. W1: an image of 784 Bernoulli pixels and a label of 10 classes, MLPs with two hidden layers of 512 both
ways, a latent of 64, batches of 128. W2: PolyMNIST's five 3x28x28 modalities with the convolutional networks of MoPoE,
a latent of 512, batches of 128. The floor has the same networks and the same mathematics in plain tensor operations,
an unfused Adam, no distributions and no data loader. Before anything is timed, each floor's loss is compared with ours
for the same weights and the same latents.

Columns, each divided by the floor: the floor with a fused Adam; our objective's step with a fused Adam; the whole loop
of `fit`, with its loader, checks, logging and checkpoints. All run in turns in one process, and medians over the
rounds are printed; a ratio within one run is what counts, since another load gives other milliseconds. Pin the process
to one core (`taskset -c 0`) with OMP_NUM_THREADS=1, so that nothing else on the machine shares it.
"""

import argparse
import copy
import itertools
import statistics
import tempfile
import time

import torch
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from multipyro.data import Modality, MultimodalData
from multipyro.inference import build, fit, fit_recipe
from multipyro.inference.handlers import frozen
from multipyro.inference.recipes import Networks

LOG_2PI = 1.8378770664093453
# cell -> method, options, stage
CELLS = {
    "jmvae": ("jmvae", {}, 0),
    "mvae, joint and unimodal": ("mvae", {"random_subsets": 0}, 0),
    "mvtcae": ("mvtcae", {}, 0),
    "mopoe": ("mopoe", {}, 0),
    "mmvae, K = 1": ("mmvae", {"particles": 1, "family": "normal"}, 0),
    "mmvae, K = 10": ("mmvae", {"particles": 10, "family": "normal"}, 0),
    "telbo, stage 1": ("telbo", {}, 0),
    "telbo, stage 2": ("telbo", {}, 1),
    "vlvae, stage 1": ("vlvae", {"aggregate": None}, 0),
}


def workload(name):
    """The modalities, the widths of the networks, the size of the latent, and a batch's values."""
    generator = torch.Generator().manual_seed(0)
    if name == "W1":
        modalities = {
            "image": Modality("image", (784,), "vector", "bernoulli"),
            "label": Modality("label", (), "label", "categorical", 10),
        }
        return (
            modalities,
            (512, 512),
            64,
            lambda rows: {
                "image": (torch.rand(rows, 784, generator=generator) < 0.2).float(),
                "label": torch.randint(10, (rows,), generator=generator),
            },
        )
    modalities = {f"m{m}": Modality(f"m{m}", (3, 28, 28), "image", "laplace", scale=0.75) for m in range(5)}
    return (
        modalities,
        (512,),
        512,
        lambda rows: {m: torch.rand(rows, 3, 28, 28, generator=generator) for m in modalities},
    )


def log_normal(z, loc, scale):
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * LOG_2PI).sum(-1)


def kl_normal(loc, scale, other_loc=0.0, other_scale=None):
    other_scale = torch.ones_like(scale) if other_scale is None else other_scale
    ratio = (scale / other_scale) ** 2
    return 0.5 * (ratio + ((loc - other_loc) / other_scale) ** 2 - 1 - ratio.log()).sum()


class Floor(nn.Module):
    """The step by hand: the networks of a recipe, and nothing else of the library."""

    def __init__(self, cell, recipe):
        super().__init__()
        self.cell, (self.method, self.options, _) = cell, CELLS[cell]
        guide = getattr(recipe.guide, "guide", recipe.guide)  # jmvae's completions do not train
        self.modalities = list(recipe.model.modalities)
        encoders = getattr(guide, "encoders", {})
        encoders = encoders if len(encoders) else getattr(guide, "networks", {})
        self.networks = nn.ModuleDict({m: copy.deepcopy(encoders[m].network) for m in self.modalities if m in encoders})
        self.heads = nn.ModuleDict({m: copy.deepcopy(encoders[m].heads) for m in self.modalities if m in encoders})
        self.decoders = nn.ModuleDict({m: copy.deepcopy(recipe.model.likelihoods[m].network) for m in self.modalities})
        self.likelihoods = {m: type(recipe.model.likelihoods[m]).__name__ for m in self.modalities}
        if hasattr(guide, "joint"):
            self.branches = copy.deepcopy(guide.joint.branches)
            self.joint = copy.deepcopy(nn.Sequential(guide.joint.encoder.network, guide.joint.encoder.heads))

    def trained(self):
        if self.cell == "telbo, stage 2":
            return [*self.networks.parameters(), *self.heads.parameters()]
        if self.cell == "telbo, stage 1":
            return [*self.branches.parameters(), *self.joint.parameters(), *self.decoders.parameters()]
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def expert(self, m, x):
        loc, raw = self.heads[m](self.networks[m](x[m])).chunk(2, -1)
        return loc, softplus(raw) + 1e-6

    def joint_posterior(self, x):
        features = torch.cat([self.branches[m](x[m]) for m in self.branches], -1)
        loc, raw = self.joint(features).chunk(2, -1)
        return loc, softplus(raw) + 1e-6

    def reconstruction(self, m, z, x):
        out, values = self.decoders[m](z), x[m]
        if self.likelihoods[m] == "BernoulliLikelihood":
            return (
                -binary_cross_entropy_with_logits(out, values.expand_as(out), reduction="none")
                .flatten(z.dim() - 1)
                .sum(-1)
            )
        if self.likelihoods[m] == "CategoricalLikelihood":
            return -cross_entropy(out.flatten(0, -2), values.expand(out.shape[:-1]).flatten(), reduction="none").view(
                out.shape[:-1]
            )
        return (-(out - values).abs() / 0.75 - 0.4054651081081644).flatten(z.dim() - 1).sum(-1)  # log(2 * 0.75)

    @staticmethod
    def product(experts, prior):
        precisions = [scale**-2 for _, scale in experts]
        total = sum(precisions) + (1.0 if prior else 0.0)
        loc = sum(p * loc for p, (loc, _) in zip(precisions, experts, strict=True)) / total
        return loc, total**-0.5

    @staticmethod
    def sampled(loc, scale, z):
        return loc + scale * torch.randn_like(scale) if z is None else z

    def elbo(self, loc, scale, x, modalities, z=None):
        z = self.sampled(loc, scale, z)
        return sum(self.reconstruction(m, z, x).sum() for m in modalities) - kl_normal(loc, scale)

    def loss(self, x, latents=(None,) * 8):
        """Minus the objective, summed over the batch, with fresh latents or the ones given."""
        names = self.modalities
        if self.cell == "telbo, stage 2":
            parameters = list(self.decoders.parameters())
            for parameter in parameters:
                parameter.requires_grad_(False)
            total = sum(self.elbo(*self.expert(m, x), x, [m], z) for m, z in zip(names, latents, strict=False))
            return -total
        if self.method in ("jmvae", "telbo"):
            return -self.elbo(*self.joint_posterior(x), x, names, latents[0])
        if self.method == "vlvae":
            return -self.elbo(*self.expert(names[0], x), x, names, latents[0])
        experts = {m: self.expert(m, x) for m in names}
        if self.method == "mvae":
            total = self.elbo(*self.product(list(experts.values()), True), x, names, latents[0])
            for m, z in zip(names, latents[1:], strict=False):
                total = total + self.elbo(*self.product([experts[m]], True), x, [m], z)
            return -total
        if self.method == "mvtcae":
            return self._mvtcae(x, experts, latents[0])
        return self._mopoe(x, experts, latents[0]) if self.method == "mopoe" else self._mmvae(x, experts, latents[0])

    def _mvtcae(self, x, experts, z):
        number, ratio = len(experts), 5 / 6
        loc, scale = self.product(list(experts.values()), False)
        z = self.sampled(loc, scale, z)
        likelihood = sum(self.reconstruction(m, z, x).sum() for m in experts)
        apart = sum(kl_normal(loc, scale, *expert) for expert in experts.values())
        return -(number - ratio) / number * likelihood + (1 - ratio) * kl_normal(loc, scale) + ratio / number * apart

    def _mopoe(self, x, experts, z):
        names, components = list(experts), []
        for size in range(1, len(names) + 1):
            for subset in itertools.combinations(names, size):
                components.append(self.product([experts[m] for m in subset], size == len(names)))
        locs, scales = (
            torch.stack([loc for loc, _ in components], 1),
            torch.stack([scale for _, scale in components], 1),
        )
        if z is None:
            index = (torch.randperm(len(locs)) % len(components))[:, None, None].expand(-1, 1, locs.shape[-1])
            loc, scale = locs.gather(1, index).squeeze(1), scales.gather(1, index).squeeze(1)
            z = loc + scale * torch.randn_like(scale)
        densities = log_normal(z[:, None], locs, scales)
        log_q = densities.logsumexp(1) - torch.tensor(float(len(components))).log()
        log_p = log_normal(z, torch.zeros(()), torch.ones(())) - 0.0
        return -(sum(self.reconstruction(m, z, x) for m in names) + log_p - log_q).sum()

    def _mmvae(self, x, experts, z):
        particles, number = self.options["particles"], len(experts)
        locs, scales = (torch.stack(parts) for parts in zip(*experts.values(), strict=True))
        if z is None:  # (particles, experts, batch, latent)
            z = locs + scales * torch.randn(particles, *scales.shape)
        densities = torch.stack([log_normal(z, loc, scale) for loc, scale in zip(locs, scales, strict=True)])
        log_q = densities.logsumexp(0) - torch.tensor(float(number)).log()
        log_p = log_normal(z, torch.zeros(()), torch.ones(()))
        weights = sum(self.reconstruction(m, z, x) for m in experts) + log_p - log_q
        return -((weights.logsumexp(0) - torch.tensor(float(particles)).log()).sum() / number)


class Latents(Messenger):
    """Records the latents of a step in the order in which they are sampled."""

    def __init__(self):
        super().__init__()
        self.values = []

    def _pyro_post_sample(self, msg):
        if msg["name"] == "z" and not any(msg["value"] is value for value in self.values):
            self.values.append(msg["value"])


def programs_of(recipe, stage):
    """The programs of a stage, and what trains in it."""
    train = recipe.stages[stage].train
    if train is None:
        return recipe.model, recipe.guide, [*recipe.model.parameters(), *recipe.guide.parameters()]
    return frozen(recipe.model, train), frozen(recipe.guide, train), [p for part in train for p in part.parameters()]


def check(floor, objective, model, guide, x):
    """Raises unless the floor and the objective agree for the same weights and latents."""
    with torch.no_grad(), Latents() as latents:
        ours = objective.differentiable_loss(model, guide, x)
    # the stratified bound samples its strata at one go, after a first visit of the guide
    values = latents.values[-1:] if floor.method == "mmvae" else latents.values
    with torch.no_grad():
        theirs = floor.loss(x, [*values, *[None] * 8])
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-2)


def stepper(loss, parameters, fused):
    """A function that takes one optimizer step; before torch 2.4, no optimizer on a CPU is fused."""
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=fused and version >= (2, 4))

    def step(x):
        optimizer.zero_grad()
        loss(x)
        optimizer.step()

    return step


class Clock:
    """Seconds at the end of each epoch of `fit`."""

    def __init__(self):
        self.seconds = []

    def on_epoch_end(self, state):
        self.seconds.append(time.perf_counter())


def main(args):
    torch.manual_seed(args.seed)
    modalities, hidden, latent_dim, batch = workload(args.workload)
    steps, rounds, rows = (2, 1, 8) if args.smoke else (args.steps, args.rounds, 128)
    batches = [batch(rows) for _ in range(steps)]
    values = {m: torch.cat([x[m] for x in batches]) for m in modalities}
    data = MultimodalData("made", modalities, values, None, None, "train")
    print(
        f"{args.workload}, {torch.get_num_threads()} thread(s), torch {torch.__version__}: ratios to the floor, medians"
    )
    print(f"{'':26}{'floor, ms':>10}{'fused Adam':>12}{'our step':>10}{'fit':>8}")
    for cell, (method, options, stage) in CELLS.items():
        if args.cells and cell not in args.cells:
            continue
        recipe = build(method, Networks(modalities, hidden), latent_dim, **options)
        if args.workload == "W2" and cell == "telbo, stage 2":
            continue  # 30 encoders of subsets, which the floor does not write out
        objective, programs = recipe.stages[stage].objective, programs_of(recipe, stage)
        cell_batches = [{m: x[m] for m in recipe.model.modalities} for x in batches]
        check(Floor(cell, recipe), objective, *programs[:2], cell_batches[0])
        floors = [Floor(cell, recipe) for _ in range(2)]
        steppers = {
            "floor": stepper(lambda x, f=floors[0]: f.loss(x).backward(), floors[0].trained(), False),
            "fused": stepper(lambda x, f=floors[1]: f.loss(x).backward(), floors[1].trained(), True),
            "ours": stepper(lambda x, o=objective, p=programs: o.loss_and_grads(*p[:2], x), programs[2], True),
        }
        seconds = {name: [] for name in (*steppers, "fit")}
        for _ in range(rounds):
            for name, step in steppers.items():
                step(cell_batches[0])
                started = time.perf_counter()
                for x in cell_batches:
                    step(x)
                seconds[name].append((time.perf_counter() - started) / steps)
            seconds["fit"].append(_fit(recipe, stage, data, rows) / steps)
        median = {name: statistics.median(times) for name, times in seconds.items()}
        ratios = [median[name] / median["floor"] for name in ("fused", "ours", "fit")]
        print(f"{cell:26}{median['floor'] * 1e3:10.2f}{ratios[0]:12.2f}{ratios[1]:10.2f}{ratios[2]:8.2f}", flush=True)


def _fit(recipe, stage, data, rows):
    """Seconds of the median epoch of `fit`, all that it does in an epoch included."""
    clock = Clock()
    recipe = copy.deepcopy(recipe)
    settings = {"epochs": 4, "batch_size": rows, "progress": False, "callbacks": [clock]}
    with tempfile.TemporaryDirectory() as folder:
        if len(recipe.stages) == 1:
            fit(recipe.model, recipe.guide, recipe.stages[0].objective, data, out=folder, **settings)
            times = clock.seconds
        else:
            fit_recipe(recipe, data, out=folder, **settings)
            times = clock.seconds[4 * stage : 4 * stage + 4]
    return statistics.median(after - before for before, after in itertools.pairwise(times))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=("W1", "W2"), default="W1")
    parser.add_argument("--cells", nargs="+", choices=CELLS, help="some rows of the table")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="two steps, one round, to check that it runs")
    main(parser.parse_args())
