"""Do the methods that multivae has too generate as coherently here, and how long does training take? Side by side.

Both libraries train the same networks from the same initial weights, with the same latent size, optimizer, epochs,
batch size and weights of the modalities, on the embedded digits (image, label, word), without validation; the weights
after the last epoch count. Where the libraries have different defaults, the options of `METHODS` make them agree as far
as both can. One classifier, trained on real images, evaluates both: coherence in every direction (the share of test
examples whose generated modality has the right class) and of joint samples, and CPU seconds of training.

What remains different is printed as rows of their own: `ours: ...` changes one thing of ours into what multivae has.
multivae must be importable: `python -m pip install --target DIR --no-deps multivae==1.0.3 pythae==0.1.2` and whatever
it misses, then `PYTHONPATH=DIR`. Finished runs are not repeated: run the same command to resume. Run it with
OMP_NUM_THREADS=1. Results: `results/peer/README.md`.
"""

import argparse
import contextlib
import copy
import dataclasses
import importlib
import io
import itertools
import json
import logging
import os
import statistics
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import one_hot

from multipyro.data import load_dataset
from multipyro.data.storage import write_atomically
from multipyro.inference import build, cross_generate, fit_recipe, joint_samples
from multipyro.inference.evaluation import train_classifiers
from multipyro.inference.recipes import Networks
from multipyro.inference.runs import versions

#: Name -> our method and its options, the class of multivae and its configuration. `None` for what follows `--epochs`.
METHODS = {
    "mvae": ("mvae", {}, "MVAE", {"k": 1, "warmup": 0}),
    "mmvae": ("mmvae", {"particles": 4}, "MMVAE", {"K": 4, "loss": "iwae_looser"}),
    "mopoe": ("mopoe", {}, "MoPoE", {}),
    "mvtcae": ("mvtcae", {}, "MVTCAE", {"alpha": 5 / 6, "beta": 1.0}),
    "jmvae-kl": ("jmvae-kl", {}, "JMVAE", {"alpha": 1.0, "warmup": 1}),
    "telbo": ("telbo", {}, "TELBO", {"warmup": None}),
    "jnf": ("jnf", {}, "JNF", {"warmup": None}),
    "mmvae+": ("mmvae+", {"particles": 4}, "MMVAEPlus", {"K": 4, "loss": "iwae_looser"}),
}
#: Methods whose epochs are divided equally between two stages.
STAGED = ("telbo", "jnf")
#: Library -> method -> one change of ours toward multivae, for rows in which the two differ.
CHANGES = {
    "ours: exp scale": dict.fromkeys(("mvae", "mopoe", "mvtcae", "jmvae-kl", "telbo", "jnf"), {"encoder_scale": "exp"}),
    "ours: subset ELBOs": {"mopoe": {"objective": "subsets"}},
    "ours: exp scale, subset ELBOs": {"mopoe": {"objective": "subsets", "encoder_scale": "exp"}},
}
REPEATS = 10


def recipe_of(method, options, modalities, args, seed):
    torch.manual_seed(seed)
    return build(method, Networks(modalities, args.hidden), args.latent_dim, weights=args.weights, **options)


def train_ours(library, name, splits, modalities, args, seed):
    """Trains with multipyro; the CPU seconds, and a function that generates, and one that samples jointly."""
    method, options, _, _ = METHODS[name]
    recipe = recipe_of(method, {**options, **CHANGES.get(library, {}).get(name, {})}, modalities, args, seed)
    epochs = args.epochs // 2 if method in STAGED else args.epochs
    before = cpu_seconds()
    fit_recipe(recipe, splits.train, epochs=epochs, batch_size=args.batch_size, lr=args.lr, seed=seed, progress=False)
    seconds = cpu_seconds() - before

    def generate(x, given, target):
        x = {name: x[name] for name in given}
        values = cross_generate(recipe.model, recipe.guide, x, target, REPEATS, output="mean")
        return {name: each.flatten(0, 1) for name, each in values.items()}

    return seconds, generate, lambda number: joint_samples(recipe.model, number, output="mean")


def train_theirs(name, splits, modalities, args, seed):
    """The same with multivae."""
    models = importlib.import_module("multivae.models")
    trainers = importlib.import_module("multivae.trainers")
    MultimodalBaseDataset = importlib.import_module("multivae.data.datasets").MultimodalBaseDataset
    method, options, kind, settings = METHODS[name]
    recipe = recipe_of(method, options, modalities, args, seed)
    logging.disable(logging.INFO)
    kinds = {"image": "normal", "label": "categorical", "text": "categorical"}
    config = getattr(models, f"{kind}Config")(
        n_modalities=len(modalities),
        latent_dim=args.latent_dim,
        input_dims={m: shape_of(modality) for m, modality in modalities.items()},
        decoders_dist={m: kinds[modality.kind] for m, modality in modalities.items()},
        decoder_dist_params={m: {"scale": each.scale} for m, each in modalities.items() if each.kind == "image"},
        uses_likelihood_rescaling=True,
        rescale_factors=args.weights,
        **({"modalities_specific_dim": args.latent_dim} if name == "mmvae+" else {}),
        **{key: args.epochs // 2 if value is None else value for key, value in settings.items()},
    )
    model = getattr(models, kind)(config, *peer_networks(recipe, modalities, args.latent_dim))

    def dataset(x):
        return MultimodalBaseDataset({m: encoded(x[m], modality) for m, modality in modalities.items() if m in x})

    prefix = "Multistage" if name in STAGED else "Base"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        trainer = getattr(trainers, f"{prefix}Trainer")(
            model,
            dataset(splits.train.rows(torch.arange(len(splits.train)))[0]),
            training_config=getattr(trainers, f"{prefix}TrainerConfig")(
                output_dir=folder,
                num_epochs=args.epochs,
                learning_rate=args.lr,
                per_device_train_batch_size=args.batch_size,
                optimizer_cls="Adam",
                seed=seed,
                no_cuda=True,
            ),
        )
        before = cpu_seconds()
        trainer.train()
        seconds = cpu_seconds() - before
    model = trainer.model.eval()

    def generate(x, given, target):
        """None for a subset that the method of multivae does not have."""
        if len(given) > 1 and name in STAGED:
            return None
        parts = []
        # one expert of a mixture is drawn for a whole batch: small batches average over experts
        for _, rows in itertools.product(range(REPEATS), torch.arange(len(x["image"])).split(20)):
            chunk = dataset({m: x[m][rows] for m in x})  # MoPoE encodes all, and takes the product of those given
            parts.append(model.predict(chunk, cond_mod=list(given), gen_mod=list(target)))
        return {m: decoded(torch.cat([part[m] for part in parts]), modalities[m]) for m in target}

    def sample(number):
        values = model.decode(model.generate_from_prior(number))
        return {m: decoded(values[m], modality) for m, modality in modalities.items()}

    return seconds, torch.no_grad()(generate), torch.no_grad()(sample)


def peer_networks(recipe, modalities, latent_dim):
    """Copies of a recipe's encoders, decoders and joint encoder, if it has one, as modules of multivae."""
    base = importlib.import_module("multivae.models.nn.base_architectures")
    ModelOutput = importlib.import_module("pythae.models.base.base_utils").ModelOutput
    guide = getattr(recipe.guide, "guide", recipe.guide)

    def network(part):  # one-hot vectors come from the data
        return nn.Sequential(nn.Flatten(), *copy.deepcopy(getattr(part, "mlp", part)).layers)

    class Encoder(base.BaseEncoder):
        def __init__(self, encoder):
            super().__init__()
            self.network, self.heads = network(encoder.network), copy.deepcopy(encoder.heads)
            self.latent_dim = latent_dim

        def forward(self, values):
            loc, raw = self.heads(self.network(values)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=raw)

    class PrivateEncoder(base.BaseMultilatentEncoder):
        def __init__(self, shared, private):
            super().__init__()
            self.shared, self.private = Encoder(shared), Encoder(private)
            self.latent_dim = self.style_dim = latent_dim

        def forward(self, values):
            shared, private = self.shared(values), self.private(values)
            return ModelOutput(
                embedding=shared.embedding,
                log_covariance=shared.log_covariance,
                style_embedding=private.embedding,
                style_log_covariance=private.log_covariance,
            )

    class JointEncoder(base.BaseJointEncoder):
        def __init__(self, joint):
            super().__init__()
            self.branches = nn.ModuleDict({m: network(branch) for m, branch in joint.branches.items()})
            self.heads, self.latent_dim = copy.deepcopy(joint.encoder.heads), latent_dim

        def forward(self, x):
            features = torch.cat([self.branches[m](x[m]) for m in self.branches], -1)
            loc, raw = self.heads(features).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=raw)

    class Decoder(base.BaseDecoder):
        def __init__(self, decoder, shape):
            super().__init__()
            self.layers, self.shape = copy.deepcopy(decoder.layers), shape

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z).reshape(*z.shape[:-1], *self.shape))

    decoders = {m: Decoder(recipe.model.likelihoods[m].network, shape_of(each)) for m, each in modalities.items()}
    if recipe.name == "jnf":
        encoders = {m: Encoder(guide.encoders[m].base) for m in modalities}
    elif hasattr(guide, "joint"):
        encoders = {m: Encoder(guide.networks[m]) for m in modalities}
    elif recipe.name == "mmvae+":
        encoders = {m: PrivateEncoder(guide.encoders[m], guide.private[m]) for m in modalities}
    else:
        encoders = {m: Encoder(guide.encoders[m]) for m in modalities}
    return encoders, decoders, *([JointEncoder(guide.joint)] if hasattr(guide, "joint") else [])


def shape_of(modality):
    """The shape of a modality's values with one-hot classes."""
    return modality.shape if modality.kind == "image" else (*modality.shape, modality.num_classes)


def encoded(values, modality):
    return values if modality.kind == "image" else one_hot(values, modality.num_classes).float()


def decoded(values, modality):
    return values if modality.kind == "image" else values.argmax(-1)


def cpu_seconds():
    """CPU seconds of this process and of the compilers that it started."""
    return sum(os.times()[:4])


def measured(library, name, splits, modalities, classifiers, args, seed):
    """Coherences and seconds of one training, from its file if there is one."""
    file = args.out / f"{name}-{library.replace(': ', '-').replace(', ', '-').replace(' ', '_')}-{seed}.json"
    settings = {key: getattr(args, key) for key in ("epochs", "batch_size", "lr", "latent_dim", "hidden", "weights")}
    settings["scale"] = args.scale
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["settings"] == json.loads(json.dumps(settings)):
            return stored
    train = train_theirs if library == "multivae" else lambda *rest: train_ours(library, *rest)
    seconds, generate, sample = train(name, splits, modalities, args, seed)
    torch.manual_seed(seed)
    x, _ = splits.test.rows(torch.arange(len(splits.test)))
    labels = splits.test.labels.repeat(REPEATS)
    coherence = {}
    for size in range(1, len(modalities)):
        for given in itertools.combinations(modalities, size):
            target = [m for m in modalities if m not in given]
            values = generate(x, given, target)
            for m in target:
                share = None if values is None else (classifiers[m](values[m]) == labels).double().mean().item()
                coherence[f"{'+'.join(given)} -> {m}"] = share
    classes = torch.stack([classifiers[m](values) for m, values in sample(args.joint_samples).items()])
    coherence["joint"] = ((classes == classes[0]).all(0) & (classes[0] >= 0)).double().mean().item()
    result = {"settings": settings, "versions": versions(), "coherence": coherence, "seconds": seconds}
    write_atomically(file, json.dumps(result, indent=1) + "\n")
    return result


def table(results):
    """A row for each method and library, a column for each direction, in Markdown."""
    header = ["method", "library", *next(iter(results.values()))[0]["coherence"], "CPU seconds"]
    rows = []
    for (name, library), seeds in results.items():
        cells = [[each["coherence"][way] for each in seeds] for way in header[2:-1]]
        seconds = statistics.fmean(each["seconds"] for each in seeds)
        rows.append([name, library, *("" if None in cell else spread(cell) for cell in cells), f"{seconds:.0f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def spread(values):
    """Mean and standard deviation over seeds."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def main(args):
    if args.smoke:
        args.methods, args.libraries, args.seeds, args.epochs = args.methods[:1], ["ours"], 1, 1
        args.hidden, args.latent_dim, args.joint_samples = [8], 2, 20
    with tempfile.TemporaryDirectory() if args.smoke else contextlib.nullcontext(args.out) as folder:
        args.out = Path(folder)
        args.out.mkdir(parents=True, exist_ok=True)
        splits = load_dataset("digits")
        modalities = {
            m: dataclasses.replace(modality, likelihood="normal", scale=args.scale)
            if modality.kind == "image"
            else modality
            for m, modality in splits.train.modalities.items()
        }
        splits = splits.head(100) if args.smoke else splits
        torch.manual_seed(0)
        classifiers = train_classifiers(splits.train, splits.test)
        results = {}
        for seed, name, library in itertools.product(range(args.seeds), args.methods, args.libraries):
            if library in CHANGES and name not in CHANGES[library]:
                continue
            result = measured(library, name, splits, modalities, classifiers, args, seed)
            results.setdefault((name, library), []).append(result)
            print(f"{name}, {library}, seed {seed}: {result['seconds']:.0f} s", flush=True)
        print(table(results))
        print(f"accuracy of the classifier of images: {classifiers['image'].accuracy:.3f}")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--libraries", nargs="+", default=["ours", "multivae"], choices=["ours", "multivae", *CHANGES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50, help="in all, of methods with two stages half in each")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--latent-dim", type=int, default=16)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--weights", type=json.loads, default={"image": 1.0, "label": 1.0, "word": 1.0})
    parser.add_argument("--scale", type=float, default=0.2, help="standard deviation of the pixels")
    parser.add_argument("--joint-samples", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("runs/peer"), help="folder of the results")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs, without multivae")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(arguments())
