"""Published data sets, one module each; `multipyro.data.load_dataset` loads them by name."""

from multipyro.data.sets.celeba import load_celeba
from multipyro.data.sets.cub import load_cub
from multipyro.data.sets.digits import DIGIT_WORDS, load_digits
from multipyro.data.sets.mnist import load_mnist
from multipyro.data.sets.mnist_fashion import load_mnist_fashion
from multipyro.data.sets.mnist_svhn import load_mnist_svhn
from multipyro.data.sets.polymnist import load_polymnist

__all__ = [
    "DIGIT_WORDS",
    "load_celeba",
    "load_cub",
    "load_digits",
    "load_mnist",
    "load_mnist_fashion",
    "load_mnist_svhn",
    "load_polymnist",
]
