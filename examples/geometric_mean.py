"""How is a method added in one file, from its equation to its row in the table?

The method: experts that agree should not make each other surer, as a product of experts does, so take their geometric
mean, the barycenter of the experts under the reverse Kullback-Leibler divergence,

    q(z | x_S)  ~  prod_{m in S} q_m(z | x_m)^(1 / |S|),

and train it as MVAE is trained, on the ELBO of all modalities and of each alone. `adding_a_method.md` walks through
this file. Expect, with seed 0, on the 300 test rows of the digits: image -> label 0.90,
label -> image 0.80, word -> image 0.89.
"""

import argparse

import torch

from multipyro.data import load_dataset
from multipyro.guides import Guide, product_of_experts
from multipyro.inference import (
    MethodInfo,
    Recipe,
    Stage,
    SubsetELBO,
    build,
    conditional_coherence,
    fit_recipe,
    networks_for,
    register,
    site_weights,
    train_classifiers,
)
from multipyro.ppl_models import MultimodalModel


class GeometricMean(Guide):
    """The geometric mean of the experts that a row has."""

    def posterior(self, x, observed=None):
        experts = self.experts(x, observed)
        return product_of_experts(experts, powers=1 / experts.count())


def build_geometric(networks, latent_dim, *, random_subsets=1, beta=1.0, warmup=0, weights=None):
    """Model, guide and objective."""
    sites, _ = site_weights(networks, beta, warmup, weights)
    model = MultimodalModel(latent_dim, networks.likelihoods(latent_dim))
    guide = GeometricMean(latent_dim, networks.encoders(latent_dim))
    return Recipe("geometric", model, guide, (Stage(SubsetELBO(random_subsets, sites)),), latent_dim)


GEOMETRIC = MethodInfo(
    name="geometric",
    title="geometric mean of experts, sub-sampled ELBOs",
    paper="this page",
    programs="sum_S ELBO(m|S || g|S), S = all, singles, k random",
    stages=1,
    subsets="every subset",
    needs_complete_rows=False,
    networks="M encoders",
    options={"random_subsets": 1},
    build=build_geometric,
)


def main(args):
    register(GEOMETRIC)
    digits = load_dataset("digits")
    torch.manual_seed(args.seed)
    networks = networks_for(digits.train.modalities)
    recipe = build("geometric", networks, latent_dim=8, weights={"label": 10.0, "word": 5.0})
    epochs = 1 if args.smoke else args.epochs
    fit_recipe(recipe, digits, epochs=epochs, batch_size=64, lr=2e-3, seed=args.seed, progress=False)
    judge = train_classifiers(digits.train, digits.test)
    for given, target in (("image", "label"), ("label", "image"), ("word", "image")):
        found = conditional_coherence(recipe.model, recipe.guide, digits.test, [given], target, judge[target])
        print(f"coherence {given} -> {target}: {found['value']:.3f} ± {found['se']:.3f}")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="one epoch, to see that it runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(arguments())
