"""How is a method added in one file, from its equation to its column in a comparison?

In a product of experts, experts that agree make each other more certain. Their geometric mean does not: it is the
barycenter of the experts under the reverse Kullback-Leibler divergence,

    q(z | x_S)  ~  prod_{m in S} q_m(z | x_m)^(1 / |S|),

and is trained as MVAE is, on the ELBO of all modalities, of each alone and of a random subset. The page
`docs/how-to/add_a_method.md` explains this file. Expect, with seed 0, on the 300 test examples of the digits: image ->
label 0.90, label -> image 0.80, word -> image 0.89.
"""

import argparse

import torch

from multipyro.data import load_dataset
from multipyro.guides import Guide, product_of_experts
from multipyro.inference import build, fit_recipe, networks_for
from multipyro.inference.evaluation import conditional_coherence, train_classifiers
from multipyro.inference.objectives import subset_elbo
from multipyro.inference.recipes import Recipe, Stage, method, register
from multipyro.ppl_models import MultimodalModel


class GeometricMean(Guide):
    """The geometric mean of the experts of the modalities that are observed."""

    def posterior(self, x, observed=None):
        experts = self.experts(x, observed)
        return product_of_experts(experts, powers=1 / experts.count())


@method("geometric", title="geometric mean of experts, sub-sampled ELBOs", paper="this page")
def geometric(networks, latent_dim, weighting, *, random_subsets: int = 1):
    """Model, guide and objective."""
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    guide = GeometricMean(latent_dim, networks.encoders(latent_dim))
    return Recipe(model, guide, (Stage(subset_elbo(random_subsets, weighting.sites)),))


def main(args):
    register(geometric)
    digits = load_dataset("digits")
    torch.manual_seed(args.seed)
    networks = networks_for(digits.train.modalities)
    recipe = build("geometric", networks, latent_dim=8, weights={"label": 10.0, "word": 5.0})
    epochs = 1 if args.smoke else args.epochs
    fit_recipe(recipe, digits, epochs=epochs, batch_size=64, lr=2e-3, seed=args.seed, progress=False)
    classifiers = train_classifiers(digits.train, digits.test)
    for given, target in (("image", "label"), ("label", "image"), ("word", "image")):
        coherence = conditional_coherence(recipe.model, recipe.guide, digits.test, [given], target, classifiers[target])
        print(f"coherence {given} -> {target}: {coherence.value:.3f} ± {coherence.se:.3f}")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="one epoch, to check that it runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(arguments())
