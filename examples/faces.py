"""Are faces sharper if the decoder is also trained against a discriminator?

JMVAE-kl and JMVAE-GAN are trained on faces and their 40 attributes (Improving Bi-directional Generation between
Different Modalities with Variational Autoencoders, Suzuki et al., section 6.2), with the same networks, examples,
epochs, optimizer and seed. Both are evaluated on the same test examples by the variance of the Laplacian relative to
that of real faces, at full resolution and at half of it, where patterns of single pixels do not count; by the distance
of their frequency spectrum from that of real faces; by the error of reconstructions; and by a classifier of real
faces, applied to faces generated from attributes. Then both draw average faces and variations with shared noise
(Figure 7), and JMVAE-GAN edits faces by x + x'_mean - x_mean (Figure 8).

Expect reconstructions of JMVAE-kl with a fraction of the sharpness of real faces, and those of JMVAE-GAN to be sharper
with a larger error: the discriminator rewards detail, not the right detail. The paper trains on 20 times as many faces
with networks four times as wide (`--hidden 512`), so expect blurred ones in any case. Results and their command:
`results/faces/README.md`.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multipyro.data import Modality, MultimodalData, Splits, load_dataset
from multipyro.inference import build, cross_generate, fit_recipe, joint_samples, load, networks_for
from multipyro.inference.evaluation import evaluating, train_classifiers
from multipyro.inference.runs import versions
from multipyro.ppl_models import point_estimate

METHODS = ("jmvae-kl", "jmvae-gan")
CLASSIFIED = ("Male", "Smiling")
# attribute -> what it is changed to, beyond the 1 and -1 of the data
AVERAGE = {"Base": None, "Male": 2.0, "Not Male": -2.0, "Smiling": 2.0, "Not Smiling": -2.0, "Bald": 2.0}
AVERAGE |= {"Eyeglasses": 2.0, "Blond Hair": 2.0, "Black Hair": 2.0, "Not Young": -2.0}
EDITS = {name: value for name, value in AVERAGE.items() if name not in ("Base", "Bald")}
NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young".split()
)


def noise(rows):
    """Splits of noise in place of faces, to check that everything runs."""
    image = Modality("image", (3, 64, 64), "image", "normal")
    modalities = {"image": image, "attributes": Modality("attributes", (len(NAMES),), "vector", "normal")}
    generator, parts = torch.Generator().manual_seed(0), []
    for name in Splits.NAMES:
        x = {
            "image": torch.rand(rows, *image.shape, generator=generator),
            "attributes": torch.randint(2, (rows, len(NAMES)), generator=generator) * 2.0 - 1.0,
        }
        parts.append(MultimodalData("noise", modalities, x, split=name))
    return Splits(*parts)


def faces(args):
    """CelebA with attributes of 1 and -1, and a Gaussian likelihood of pixels, as in the paper."""
    if args.smoke:
        return noise(24)
    splits = load_dataset("celeba", args.data_root, likelihood="normal")
    image = replace(splits.train.modalities["image"], likelihood="normal")
    parts = (getattr(splits, name) for name in Splits.NAMES)
    return Splits(*(replace(part, modalities={**part.modalities, "image": image}) for part in parts))


def train(method, splits, args):
    """Trains one method, or loads it from its folder."""
    torch.manual_seed(args.seed)
    networks = networks_for(splits.train.modalities, (args.hidden, args.hidden))
    options = {"alpha": args.alpha, "warmup": args.warmup}
    if method == "jmvae-gan":
        options |= {"reconstruction": args.reconstruction, "discriminator": args.discriminator}
    recipe = build(method, networks, args.latent_dim, **options)
    folder = None if args.runs is None else args.runs / method
    result = fit_recipe(
        recipe,
        splits.train,
        epochs=args.epochs,
        batch_size=args.batch_size,
        # the momentum of the released code, for both methods
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=args.lr, betas=(0.5, 0.999)),
        seed=args.seed,
        out=folder,
        resume=folder is not None,
        progress=False,
    )
    return (recipe if folder is None else load(folder, which="last").recipe), result.history


def brightness(images):
    """Brightness `(rows, 1, height, width)` of color images."""
    return (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def sharpness(images):
    """Variance of the Laplacian of the brightness of each image, `(rows,)`."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return torch.nn.functional.conv2d(brightness(images), kernel).flatten(1).var(1)


def spectral_distance(images, real, blocks=10):
    """Mean distance over frequencies of the power of images from that of real ones, in decibels: blur or patterns."""
    side = images.shape[-1]
    frequency = torch.fft.fftfreq(side) * side
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt().round().long().flatten()
    window = torch.outer(torch.hann_window(side), torch.hann_window(side))  # opposite edges that differ are not detail

    def power(part):
        gray = brightness(part)[:, 0]
        powers = torch.fft.fft2((gray - gray.mean((1, 2), keepdim=True)) * window).abs().square().mean(0).flatten()
        return torch.zeros(int(radius.max()) + 1).index_add(0, radius, powers)[1 : side // 2]

    pairs = zip(images.chunk(blocks), real.chunk(blocks), strict=True)
    return mean_of(
        torch.stack([10 * (power(generated) / power(true)).log10().abs().mean() for generated, true in pairs])
    )


def relative(images, real):
    """Mean sharpness of images over that of as many real faces, and its standard error by the delta method."""
    generated, reference = sharpness(images), sharpness(real)
    ratio = generated.mean() / reference.mean()
    error = (generated - ratio * reference).std() / reference.mean() / len(generated) ** 0.5
    return [ratio.item(), error.item()]


def mean_of(values):
    """The mean over examples and its standard error."""
    return [values.mean().item(), (values.std() / len(values) ** 0.5).item()]


def train_face_classifiers(splits):
    """A classifier of real faces for each attribute in `CLASSIFIED`, with its accuracy on real test faces."""
    classifiers = {}
    for name in CLASSIFIED:
        parts = []
        for part in (splits.train, splits.test):
            x, _ = part.rows(torch.arange(len(part)))
            parts.append(replace(part.select(["image"]), labels=(x["attributes"][:, NAMES.index(name)] > 0).long()))
        classifiers[name] = train_classifiers(*parts)["image"]
    return classifiers


def metrics_of(recipe, x, classifiers, args):
    """All metrics of one method on the test examples `x`, and the generated faces."""
    torch.manual_seed(args.seed)
    model, guide, image = recipe.model, recipe.guide, x["image"]
    generated = {
        "reconstruction": cross_generate(model, guide, x, ["image"], output="mean")["image"][0],
        "from attributes": cross_generate(model, guide, {"attributes": x["attributes"]}, ["image"], output="mean")[
            "image"
        ][0],
        "from the prior": joint_samples(model, len(image), ["image"], "mean")["image"],
    }
    metrics = {"sharpness": {}, "sharpness at half size": {}, "spectral distance, decibels": {}, "faces": {}}
    for name, images in generated.items():
        metrics["sharpness"][name] = relative(images, image)
        halves = (torch.nn.functional.avg_pool2d(part, 2) for part in (images, image))
        metrics["sharpness at half size"][name] = relative(*halves)
        metrics["spectral distance, decibels"][name] = spectral_distance(images, image)
    error = (generated["reconstruction"] - image).square().flatten(1).mean(1).sqrt()
    metrics["root mean square error"] = mean_of(error)
    predicted = cross_generate(model, guide, {"image": image}, ["attributes"], output="mean")["attributes"][0]
    metrics["attributes predicted from faces"] = mean_of(((predicted > 0) == (x["attributes"] > 0)).float().mean(1))
    for name, classify in classifiers.items():
        wanted = (x["attributes"][:, NAMES.index(name)] > 0).long()
        metrics["faces"][name] = mean_of((classify(generated["from attributes"]) == wanted).float())
    return metrics, generated


def latent(recipe, x):
    """Mean and scale of the guide's latent given `x`."""
    with evaluating(recipe.guide):
        posterior = recipe.guide.conditional(x)
        return posterior.mean, posterior.variance.sqrt()


def decoded(recipe, name, z):
    """The image or attributes that a latent decodes to."""
    with evaluating(recipe.model):
        return point_estimate(recipe.model.likelihoods[name](z))


def changed(attributes, changes):
    """The attributes with each of the changes, `(len(changes), 40)`."""
    rows = attributes.repeat(len(changes), 1)
    for row, (name, value) in zip(rows, changes.items(), strict=True):
        if value is not None:
            row[NAMES.index(name.removeprefix("Not ").replace(" ", "_"))] = value
    return rows


def average_faces(recipe, base, args, variations=4):
    """Figure 7: the average face of each change of the base, and faces around it, with the same noise along a row."""
    generator = torch.Generator().manual_seed(args.seed)
    mean, scale = latent(recipe, {"attributes": changed(base, AVERAGE)})
    rows = [decoded(recipe, "image", mean)]
    for _ in range(variations):
        noise = torch.randn(mean.shape[-1], generator=generator)
        rows.append(decoded(recipe, "image", mean + scale * noise))
    return torch.stack(rows)


def edits(recipe, images):
    """Figure 8: x, its reconstruction, the average face of its predicted attributes, x + x'_mean - x_mean."""
    rows = []
    for image in images:
        mean, _ = latent(recipe, {"image": image[None]})
        # the predicted attributes, as the 1 and -1 that the attributes' encoder was trained on
        attributes = decoded(recipe, "attributes", mean).sign()
        averages, _ = latent(recipe, {"attributes": changed(attributes[0], {"": None, **EDITS})})
        faces = decoded(recipe, "image", averages)
        edited = image + faces[1:] - faces[:1]
        rows.append(torch.cat([image[None], decoded(recipe, "image", mean), faces[:1], edited]))
    return torch.stack(rows)


def draw(images, columns, rows, path):
    """Draws a grid of images `(rows, columns, 3, 64, 64)` with names of rows and columns."""
    high, wide = images.shape[:2]
    side = images.shape[-1]
    tiled = images.clamp(0, 1).permute(0, 3, 1, 4, 2).reshape(high * side, wide * side, 3)
    figure = Figure(figsize=(0.8 * wide + 1.0, 0.8 * high + 0.6), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(tiled.numpy(), interpolation="none")
    axes.set_xticks([side * (i + 0.5) for i in range(len(columns))], [name.replace(" ", "\n") for name in columns])
    axes.set_yticks([side * (i + 0.5) for i in range(len(rows))], rows)
    axes.tick_params(length=0, labelsize=7, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(path)


def figures(recipes, generated, splits, args):
    """The figures of the paper, and both methods side by side."""
    x, _ = splits.test.rows(torch.arange(12))
    labels, grid = ["real"], [x["image"]]
    for kind in ("reconstruction", "from attributes", "from the prior"):
        for method in METHODS:
            labels.append(f"{method},\n{kind}")
            grid.append(generated[method][kind][:12])
    draw(torch.stack(grid), [], labels, args.out / "side-by-side.png")
    base = x["attributes"][args.base]
    for method, recipe in recipes.items():
        rows = ["average", *["same noise"] * 4]
        draw(average_faces(recipe, base, args), list(AVERAGE), rows, args.out / f"figure-7-{method}.png")
    columns = ["x", "from x", "x mean", *EDITS]
    draw(edits(recipes["jmvae-gan"], x["image"][:6]), columns, [], args.out / "figure-8.png")


def main(args):
    if args.smoke:
        args.epochs, args.hidden, args.latent_dim, args.warmup, args.batch_size = 1, 8, 2, 0, 12
    splits = faces(args)
    x, _ = splits.test.rows(torch.arange(len(splits.test)))
    torch.manual_seed(args.seed)
    classifiers = train_face_classifiers(splits)
    recipes, generated, metrics = {}, {}, {}
    for method in METHODS:
        recipes[method], history = train(method, splits, args)
        metrics[method], generated[method] = metrics_of(recipes[method], x, classifiers, args)
        metrics[method]["last epoch"] = history[-1]
    shares = (splits.train.rows(torch.arange(len(splits.train)))[0]["attributes"] > 0).float().mean(0)
    guess = ((shares > 0.5) == (x["attributes"] > 0)).float().mean().item()
    print(f"{'':45}" + "".join(f"{method:>18}" for method in METHODS))
    for measure in ("sharpness", "sharpness at half size", "spectral distance, decibels"):
        for kind in metrics[METHODS[0]][measure]:
            _print(f"{measure}, {kind}", [metrics[method][measure][kind] for method in METHODS])
    for measure in ("root mean square error", "attributes predicted from faces"):
        _print(measure, [metrics[method][measure] for method in METHODS])
    for name, classifier in classifiers.items():
        _print(f"generated faces, {name} right", [metrics[method]["faces"][name] for method in METHODS])
        print(f"{'  on real faces':45}{classifier.accuracy:18.3f}")
    print(f"{'attributes, always the majority class':45}{guess:18.3f}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(args).items() if name not in ("out", "runs", "data_root")}
        words = (f"--{name.replace('_', '-')} {value}" for name, value in settings.items() if name != "smoke")
        accuracies = {name: classifier.accuracy for name, classifier in classifiers.items()}
        report = {"command": f"python examples/faces.py {' '.join(words)}", "versions": versions()}
        report |= {"rows": [len(splits.train), len(splits.test)]}
        report |= {"parameters": {method: recipe.num_parameters for method, recipe in recipes.items()}}
        report |= {"content_hash": splits.train.content_hash, "methods": metrics}
        report |= {"accuracy of the classifiers": accuracies, "accuracy of the majority": guess}
        (args.out / "faces.json").write_text(json.dumps(report, indent=1) + "\n")
        figures(recipes, generated, splits, args)


def _print(label, pairs):
    print(f"{label:45}" + "".join(f"{mean:10.3f} ± {spread:.3f}" for mean, spread in pairs), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, help="data folder, searched before MULTIPYRO_DATA")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--hidden", type=int, default=128, help="width of the networks; 512 in the paper")
    parser.add_argument("--latent-dim", type=int, default=64)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=3, help="epochs over which the weight of the KL rises")
    parser.add_argument("--reconstruction", type=float, default=0.005, help="weight of the likelihood for the decoder")
    parser.add_argument("--discriminator", choices=("normalized", "leaky"), default="leaky")
    parser.add_argument("--base", type=int, default=0, help="the test example whose attributes Figure 7 changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, help="folder for checkpoints; a run found there is resumed")
    parser.add_argument("--out", type=Path, help="folder for the report and the figures")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs, on noise")
    main(parser.parse_args())
