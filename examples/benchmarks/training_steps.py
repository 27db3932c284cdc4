"""How long does a training step take, relative to the same step written by hand in plain PyTorch? Prints ratios.

Two workloads. W1: an image of 784 Bernoulli pixels and a label of 10 classes, MLPs with two hidden layers of 512 both
ways, a latent of 64, batches of 128. W2: PolyMNIST's five 3x28x28 modalities with the convolutional networks of MoPoE,
a latent of 512, batches of 128. The floor has the same networks and the same mathematics in plain tensor operations,
an unfused Adam, no distributions and no data loader. Before anything is timed, each floor's loss is compared with ours
for the same weights and the same latents.

Columns, each divided by the floor: its matrix products and convolutions alone, the limit of what any of the others can
reach; the floor with a fused Adam; our objective's step with a fused Adam; the whole loop
of `fit_recipe`, with its loader, checks, logging and checkpoints, without capturing and with `compile=True`, the fourth
epoch, in which the graph is not compared with the programs; and the step of multivae, with the same networks, if it is
installed (for JMVAE the first stage of its TELBO, which has the same objective). multivae has no VLVAE, and for TELBO
with more than two modalities a different second stage.

All run in turn in one process, and medians of CPU time over the rounds are printed. Only ratios within one run can be
compared, since milliseconds depend on the load of the machine. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
import tempfile
import time

import torch
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot, softplus
from torch.utils._python_dispatch import TorchDispatchMode

from multipyro.data import Modality, MultimodalData
from multipyro.inference import build, fit_recipe
from multipyro.inference.handlers import frozen
from multipyro.inference.objectives import GUIDE, MODEL, elbo
from multipyro.inference.recipes import Networks, Stage

LOG_2PI = 1.8378770664093453
# cell -> method, options, stage
CELLS = {
    "jmvae": ("jmvae", {}, 0),
    "mvae, joint": ("mvae", {"random_subsets": 0}, 0),
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
        subsets = (
            [tuple(name.split("+")) for name in getattr(guide, "networks", {})] if cell == "telbo, stage 2" else []
        )
        self.subsets = [subset for subset in subsets if len(subset) > 1]
        self.joint_branches = nn.ModuleList(copy.deepcopy(encoders["+".join(a)].branches) for a in self.subsets)
        self.joint_heads = nn.ModuleList(copy.deepcopy(encoders["+".join(a)].encoder.heads) for a in self.subsets)
        if hasattr(guide, "joint"):
            self.branches = copy.deepcopy(guide.joint.branches)
            self.joint = copy.deepcopy(nn.Sequential(guide.joint.encoder.network, guide.joint.encoder.heads))

    def trained(self):
        if self.cell == "telbo, stage 2":
            encoders = (self.networks, self.heads, self.joint_branches, self.joint_heads)
            return [parameter for part in encoders for parameter in part.parameters()]
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

    def loss(self, x, latents=(None,) * 30):
        """Minus the objective, summed over the batch, with fresh latents or the ones given."""
        names = self.modalities
        if self.cell == "telbo, stage 2":
            parameters = list(self.decoders.parameters())
            for parameter in parameters:
                parameter.requires_grad_(False)
            experts = [((m,), self.expert(m, x)) for m in names]
            for subset, branches, heads in zip(self.subsets, self.joint_branches, self.joint_heads, strict=True):
                loc, raw = heads(torch.cat([branches[m](x[m]) for m in subset], -1)).chunk(2, -1)
                experts.append((subset, (loc, softplus(raw) + 1e-6)))
            return -sum(self.elbo(*expert, x, subset, z) for (subset, expert), z in zip(experts, latents, strict=False))
        if self.method in ("jmvae", "telbo"):
            return -self.elbo(*self.joint_posterior(x), x, names, latents[0])
        if self.method == "vlvae":
            return -self.elbo(*self.expert(names[0], x), x, names, latents[0])
        experts = {m: self.expert(m, x) for m in names}
        if self.method == "mvae":
            total = self.elbo(*self.product(list(experts.values()), True), x, names, latents[0])
            for m, z in zip(names if self.cell != "mvae, joint" else (), latents[1:], strict=False):
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
    # the stratified bound samples all strata at once, after a first run of the guide
    values = latents.values[-1:] if floor.method == "mmvae" else latents.values
    with torch.no_grad():
        theirs = floor.loss(x, [*values, *[None] * 30])
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


def peer_of(cell, floor, modalities, latent_dim):
    """The step of multivae with the networks of a floor; None if it is not installed or has no such objective."""
    try:
        from multivae import models
        from multivae.data.datasets import MultimodalBaseDataset
        from multivae.models.nn.base_architectures import BaseDecoder, BaseEncoder, BaseJointEncoder
        from pythae.models.base.base_utils import ModelOutput
    except ImportError:
        return None
    method, options, stage = CELLS[cell]
    if method == "vlvae" or floor.subsets:
        return None

    class Encoder(BaseEncoder):
        def __init__(self, network, heads):
            super().__init__()
            self.network, self.heads, self.latent_dim = network, heads, latent_dim

        def forward(self, values):
            loc, log_variance = self.heads(self.network(values)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class JointEncoder(BaseJointEncoder):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleDict({m: without_one_hot(branch) for m, branch in floor.branches.items()})
            self.joint, self.latent_dim = copy.deepcopy(floor.joint), latent_dim

        def forward(self, x):
            features = torch.cat([self.branches[m](x[m]) for m in self.branches], -1)
            loc, log_variance = self.joint(features).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z):
            return ModelOutput(reconstruction=self.network(z))

    def without_one_hot(network):  # its labels are one-hot vectors already
        return copy.deepcopy(getattr(network, "mlp", network))

    def encoder(m):
        if m in floor.networks:
            return Encoder(without_one_hot(floor.networks[m]), copy.deepcopy(floor.heads[m]))
        return Encoder(nn.Flatten(), nn.Linear(10, 2 * latent_dim))  # of JMVAE and TELBO, unused in the first stage

    name = {"jmvae": "TELBO", "telbo": "TELBO", "mopoe": "MoPoE"}.get(method, method.upper())
    more = {
        "TELBO": {"warmup": 1, "uses_likelihood_rescaling": False},
        "MVAE": {"warmup": 0, "use_subsampling": cell != "mvae, joint"},
        "MMVAE": {"K": options.get("particles"), "prior_and_posterior_dist": "normal", "loss": "iwae_looser"},
        "MVTCAE": {"alpha": 5 / 6, "beta": 1.0},
        "MoPoE": {},
    }[name]
    kinds = {"vector": "bernoulli", "label": "categorical", "image": "laplace"}
    config = getattr(models, f"{name}Config")(
        n_modalities=len(modalities),
        latent_dim=latent_dim,
        input_dims={m: modality.shape or (10,) for m, modality in modalities.items()},
        decoders_dist={m: kinds[modality.kind] for m, modality in modalities.items()},
        decoder_dist_params={m: {"scale": 0.75} for m, modality in modalities.items() if modality.kind == "image"},
        **more,
    )
    decoders = {m: Decoder(copy.deepcopy(floor.decoders[m])) for m in modalities}
    joint = {"joint_encoder": JointEncoder()} if name == "TELBO" else {}
    model = getattr(models, name)(config, {m: encoder(m) for m in modalities}, decoders, **joint).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step(x):
        values = {m: one_hot(v, 10).float() if modalities[m].kind == "label" else v for m, v in x.items()}
        optimizer.zero_grad()
        model(MultimodalBaseDataset(values), epoch=stage + 1).loss.backward()
        optimizer.step()

    return step


class Products(TorchDispatchMode):
    """Records the matrix products and convolutions of a step, forward and backward, and repeats them alone."""

    OPERATIONS = ("mm", "addmm", "bmm", "convolution", "convolution_backward")

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in self.OPERATIONS:
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))

    @torch.no_grad()
    def repeat(self):
        for function, args in self.calls:
            function(*args)


class Clock:
    """CPU seconds at the end of each epoch of `fit`."""

    def __init__(self):
        self.seconds = []

    def on_epoch_end(self, state):
        self.seconds.append(time.process_time())


def main(args):
    torch.manual_seed(args.seed)
    modalities, hidden, latent_dim, batch = workload(args.workload)
    steps, rounds, rows = (2, 1, 8) if args.smoke else (args.steps, args.rounds, 128)
    batches = [batch(rows) for _ in range(steps)]
    values = {m: torch.cat([x[m] for x in batches]) for m in modalities}
    data = MultimodalData("noise", modalities, values, None, None, "train")
    print(
        f"{args.workload}, {torch.get_num_threads()} thread(s), torch {torch.__version__}: ratios to the floor, medians"
    )
    columns = ("products", "fused Adam", "our step", "fit", *(() if args.smoke else ("compiled fit",)), "multivae")
    print(f"{'':26}{'floor, ms':>10}" + "".join(f"{column:>14}" for column in columns))
    for cell, (method, options, stage) in CELLS.items():
        if args.cells and cell not in args.cells:
            continue
        recipe = build(method, Networks(modalities, hidden), latent_dim, **options)
        if cell == "mvae, joint":
            recipe = dataclasses.replace(recipe, stages=(Stage(elbo(MODEL, GUIDE)),))
        objective, programs = recipe.stages[stage].objective, programs_of(recipe, stage)
        cell_batches = [{m: x[m] for m in recipe.model.modalities} for x in batches]
        check(Floor(cell, recipe), objective, *programs[:2], cell_batches[0])
        floors = [Floor(cell, recipe) for _ in range(2)]
        with Products() as products:
            floors[0].loss(cell_batches[0]).backward()
        steppers = {
            "products": lambda x, p=products: p.repeat(),
            "floor": stepper(lambda x, f=floors[0]: f.loss(x).backward(), floors[0].trained(), False),
            "fused Adam": stepper(lambda x, f=floors[1]: f.loss(x).backward(), floors[1].trained(), True),
            "our step": stepper(lambda x, o=objective, p=programs: o.loss_and_grads(*p[:2], x), programs[2], True),
            "multivae": peer_of(cell, floors[0], {m: modalities[m] for m in recipe.model.modalities}, latent_dim),
        }
        seconds = {name: [] for name in ("floor", *columns)}
        for _ in range(rounds):
            for name, step in steppers.items():
                if step is None:
                    continue
                step(cell_batches[0])
                started = time.process_time()
                for x in cell_batches:
                    step(x)
                seconds[name].append((time.process_time() - started) / steps)
            seconds["fit"].append(_epoch(recipe, stage, data, rows, False) / steps)
            if "compiled fit" in seconds:
                seconds["compiled fit"].append(_epoch(recipe, stage, data, rows, True) / steps)
        median = {name: statistics.median(times) if times else None for name, times in seconds.items()}
        ratios = ["" if median[name] is None else f"{median[name] / median['floor']:.2f}" for name in columns]
        print(f"{cell:26}{median['floor'] * 1e3:10.2f}" + "".join(f"{ratio:>14}" for ratio in ratios), flush=True)


def _epoch(recipe, stage, data, rows, compile):
    """CPU seconds of the fourth epoch of a stage of `fit_recipe`, all that it does in an epoch included."""
    clock = Clock()
    recipe = copy.deepcopy(recipe)
    settings = {"epochs": 4, "batch_size": rows, "progress": False, "callbacks": [clock], "compile": compile}
    with tempfile.TemporaryDirectory() as folder:
        fit_recipe(recipe, data, out=folder, **settings)
    *_, before, after = clock.seconds[4 * stage : 4 * stage + 4]
    return after - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=("W1", "W2"), default="W1")
    parser.add_argument("--cells", nargs="+", choices=CELLS, help="some rows of the table")
    parser.add_argument("--steps", type=int, default=48, help="steps of a round, and of an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="two steps, one round, to check that it runs")
    main(parser.parse_args())
