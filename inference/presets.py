"""The settings of published experiments by name: data, networks, likelihoods, options and training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multipyro.data import Modality, Splits, load_dataset
from multipyro.inference.recipes import Recipe, build, networks_for
from multipyro.inference.training.settings import TrainingSettings

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The settings of a published experiment.

    Args:
        name: The method that the paper is about, and the data: `"mopoe/polymnist"`.
        source: The paper and its section.
        methods: Method that the paper trains with these settings -> its additional options. The first is the default.
        data: Name of the data set.
        data_options: Options of the data set.
        modalities: The modalities that are used; None for all.
        likelihoods: Modality -> likelihood that replaces that of the data set.
        scales: Modality -> scale of its likelihood in `likelihoods`, as in `Modality`.
        latent_dim: Size of the shared latent.
        hidden_features: Widths of the hidden layers.
        architectures: Modality -> architecture that replaces its default.
        options: Options shared by all methods.
        training: Fields of `TrainingSettings`.
        departures: What differs from the paper, or is not in it, and why; each a sentence.

    Example:
        >>> PRESETS["mopoe/polymnist"].options
        {'beta': 2.5}
    """

    name: str
    source: str
    methods: Mapping[str, Mapping[str, Any]]
    data: str
    latent_dim: int
    training: Mapping[str, Any]
    data_options: Mapping[str, Any] = field(default_factory=dict)
    modalities: Sequence[str] | None = None
    likelihoods: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, float | str] = field(default_factory=dict)
    hidden_features: Sequence[int] = (512, 512)
    architectures: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    departures: Sequence[str] = ()

    @property
    def method(self) -> str:
        """The default method."""
        return next(iter(self.methods))

    def method_options(self, method: str | None = None) -> dict[str, Any]:
        """The options of a method; for a method that the paper does not train, the shared options.

        Args:
            method: The method; None for the first.
        """
        method = self.method if method is None else method
        return {**self.options, **self.methods.get(method, {})}

    def splits(self, data_root: Any = None, **options: Any) -> Splits:
        """The data, with the likelihoods of the experiment.

        Args:
            data_root: As in `load_dataset`.
            **options: Options of the data set that override those of the preset.

        Raises:
            FileNotFoundError: If the data is not found, see `load_dataset`.
        """
        splits = load_dataset(self.data, data_root, **{**self.data_options, **options})
        splits = splits if self.modalities is None else splits.select(self.modalities)
        return splits.with_likelihoods(self.likelihoods, self.scales)

    def build(self, modalities: Mapping[str, Modality], method: str | None = None, **options: Any) -> Recipe:
        """Builds a method with the networks and options of the experiment.

        Args:
            modalities: The modalities of the data: `preset.splits().train.modalities`.
            method: The method; None for the first.
            **options: Options of the method that override those of the preset.

        Raises:
            ValueError: As in `multipyro.inference.build`.
        """
        method = self.method if method is None else method
        networks = networks_for(modalities, self.hidden_features, dict(self.architectures))
        return build(method, networks, self.latent_dim, **{**self.method_options(method), **options})

    def settings(self, **overrides: Any) -> TrainingSettings:
        """The training settings.

        Args:
            **overrides: Fields of `TrainingSettings` that override those of the preset.
        """
        return TrainingSettings(**{**self.training, **overrides})

    def arguments(self, method: str | None = None) -> dict[str, Any]:
        """The preset as the arguments of `multipyro train`.

        Args:
            method: The method; None for the first.
        """
        likelihoods = {
            name: f"{likelihood}:{self.scales[name]}" if name in self.scales else likelihood
            for name, likelihood in self.likelihoods.items()
        }
        return {
            "method": self.method if method is None else method,
            "data": self.data,
            "data_option": dict(self.data_options),
            "modalities": self.modalities,
            "likelihood": likelihoods,
            "latent_dim": self.latent_dim,
            "hidden": tuple(self.hidden_features),
            "networks": dict(self.architectures),
            "option": self.method_options(method),
            **self.training,
        }


def preset(name: str) -> Preset:
    """Looks up a preset by name.

    Args:
        name: A key of `PRESETS`.

    Raises:
        ValueError: If there is no such preset; the message lists all presets.

    Example:
        >>> preset("jmvae/mnist").settings(epochs=5).lr
        0.001
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name]


_JMVAE = "Suzuki, Nakayama and Matsuo, Improving Bi-directional Generation between Different Modalities with VAEs"
_MMVAE = "Shi et al., 2019, Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models"
_MVAE = "Wu and Goodman, 2018, Multimodal Generative Models for Scalable Weakly-Supervised Learning"
_MOPOE = "Sutter et al., 2021, Generalized Multimodal ELBO"
_BRIDGED = "Yadav et al., Bridged Variational Autoencoders for Joint Modeling of Images and Attributes"
_VLVAE = "Cremer and Kushman, On the Importance of Learning Aggregate Posteriors in Multimodal VAEs"

_LOGARITHM = "A softplus gives standard deviations of encoders; in the released code an exponential does."
_BRIDGED_NETWORKS = (
    "The paper gives no layer sizes, only batch norm and leaky ReLUs: the widths are those of JMVAE for this data, and "
    "bridges have one layer with ReLUs and no batch norm.",
    "The weights of MVAE's likelihoods, mu of BiVCCA and alpha of JMVAE are not in the paper: they are 1, 1/2 and 1.",
)
_VLVAE_DEPARTURES = (
    "The weights of the likelihoods are those of the author's later code; the paper only says that the image has less "
    "and the text more.",
    "The later code's weight decay of 1e-7 and learning-rate decay by 0.999995 per step are left out.",
    "The flows train for as many epochs as the model; in the later code for 160,000 steps (60,000 on CelebA).",
)
_MOPOE_BASELINES = (
    "The MMVAE of the released code is an ELBO with one Gaussian sample and the mean of the experts' KLs; here the "
    "density of the mixture replaces that mean.",
    "The MVAE of the released code has no random subsets, and no likelihood weights in its terms of one modality; here "
    "these have the weights of the joint term.",
)
_MOPOE_METHODS = {"mopoe": {}, "mmvae": {"family": "normal", "particles": 1}, "mvae": {"random_subsets": 0}}


def _jmvae_methods(rounds: int) -> dict[str, dict[str, Any]]:
    sampled = {"rounds": rounds}
    return {"jmvae": sampled, "jmvae-kl": {"alpha": 1.0}, "jmvae-h": sampled, "cvae": {}, "cmma": {}}


_ALL = (
    Preset(
        name="jmvae/mnist",
        source=f"{_JMVAE}, section 5.1 and appendix, MNIST",
        methods=_jmvae_methods(10),
        data="mnist",
        data_options={"binarize": "dynamic"},
        latent_dim=64,
        options={"warmup": 200, "encoder_scale": "variance"},
        training={"epochs": 2_000, "batch_size": 100, "lr": 1e-3},
        departures=(
            "The batch size is that of the released code, whose limits on gradients and Adam's epsilon of 1e-4 are "
            "left out: the paper has none.",
            "The layers of CVAE and CMMA, not in the paper, are as wide as the others; CVAE's decoder gets features of "
            "the condition.",
            "The link of 64 units from the first to the second layer of JMVAE-h's encoder is two layers of 512.",
        ),
    ),
    Preset(
        name="jmvae/celeba",
        source=f"{_JMVAE}, section 5.1 and appendix, CelebA",
        methods={**_jmvae_methods(40), "jmvae-gan": {"alpha": 0.1}},
        data="celeba",
        data_options={"likelihood": "normal", "crop": "faces"},
        likelihoods={"image": "normal"},
        scales={"image": 0.27},
        latent_dim=128,
        architectures={"image": "strided"},
        options={"warmup": 20, "encoder_scale": "variance"},
        training={"epochs": 50, "batch_size": 100, "lr": 1e-4},
        departures=(
            "A scale of 0.27 on pixels in [0, 1] stands for the variance of 1 on standardized pixels.",
            "The split is the published one; the paper splits 90 to 10 without saying which images go where.",
            "The paper trains JMVAE-GAN in its released code for 100 epochs.",
            "The batch size is that of the released code.",
        ),
    ),
    Preset(
        name="mmvae/mnist-svhn",
        source=f"{_MMVAE}, section 4.2",
        methods={"mmvae": {"particles": 30, "gradient": "dreg"}, "mvae": {}, "vae": {}},
        data="mnist-svhn",
        data_options={"pairs": 20},
        likelihoods={"mnist": "laplace", "svhn": "laplace"},
        scales={"mnist": 0.75, "svhn": 0.75},
        latent_dim=20,
        architectures={"mnist": "shallow", "svhn": "plain"},
        options={"weights": "dimension"},
        training={"epochs": 30, "batch_size": 128, "lr": 1e-3, "optimizer": "amsgrad"},
        departures=(
            "A scale of 0.75 is that of the final code; Table 3 is only reachable with about 0.1, the scale of its "
            "first release.",
            "Samples, epochs and batch size are those of the released models; the paper does not give them.",
            "DReG is the paper's gradient; a hook of the released code never fires, which makes it `stl`.",
            "The encoder of SVHN has the fourth convolution and the layer of 128 of MoPoE's code.",
        ),
    ),
    Preset(
        name="mmvae/cub",
        source=f"{_MMVAE}, section 4.3, features of ResNet-101: pass the file of its weights as the option `features`",
        methods={"mmvae": {"particles": 50, "gradient": "dreg", "family": "normal"}, "mvae": {}},
        data="cub",
        likelihoods={"image": "laplace"},
        scales={"image": 0.01},
        latent_dim=64,
        options={"weights": {"image": 0.002}},
        training={"epochs": 50, "batch_size": 64, "lr": 1e-3, "optimizer": "amsgrad"},
        departures=(
            "A latent of 64, normal posteriors and a weight of 0.002 are those of the released models; the paper says "
            "128 and Laplace.",
            "Every position of a caption is scored; the released code ignores the unknown word and scores padding.",
        ),
    ),
    Preset(
        name="mmvae/cub-images",
        source=f"{_MMVAE}, section 4.3, images of 64x64",
        methods={
            "mmvae": {"particles": 50, "gradient": "dreg", "family": {"image": "laplace", "caption": "normal"}},
            "mvae": {},
        },
        data="cub",
        likelihoods={"image": "laplace"},
        scales={"image": 0.01},
        latent_dim=64,
        architectures={"image": "plain", "caption": "sentence"},
        options={"weights": {"image": 32 / (3 * 64 * 64)}},
        training={"epochs": 50, "batch_size": 64, "lr": 1e-3, "optimizer": "amsgrad"},
        departures=(
            "The scales of the image's Laplace posterior sum to their number, as in the paper; in the released code a "
            "softplus gives them.",
            "The sentence networks are those of the feature model; in the released code the last two convolutions are "
            "narrower and without bias.",
        ),
    ),
    Preset(
        name="mvae/mnist",
        source=f"{_MVAE}, released code",
        methods={"mvae": {}},
        data="mnist",
        data_options={"binarize": "none"},
        likelihoods={"image": "bernoulli"},
        latent_dim=64,
        options={"warmup": 100_000, "warmup_unit": "step", "weights": {"label": 50.0}},
        training={"epochs": 500, "batch_size": 100, "lr": 1e-3},
        departures=(
            _LOGARITHM,
            "ReLUs replace swish.",
            "The default weight of the label is 10 in the released code, and 50 in the run of its README.",
        ),
    ),
    Preset(
        name="mvae/celeba",
        source=f"{_MVAE}, released code, 18 attributes jointly",
        methods={"mvae": {}},
        data="celeba",
        data_options={"form": "visual"},
        likelihoods={"image": "bernoulli"},
        latent_dim=100,
        architectures={"image": "strided"},
        options={"warmup": 32_560, "warmup_unit": "step", "weights": {"attributes": 10.0}},
        training={"epochs": 100, "batch_size": 100, "lr": 1e-4},
        departures=(
            _LOGARITHM,
            "The networks are those of JMVAE for CelebA: twice the channels, ReLUs and no dropout.",
        ),
    ),
    Preset(
        name="mopoe/mnist-svhn-text",
        source=f"{_MOPOE}, section 4.1 and appendix C.2",
        methods=_MOPOE_METHODS,
        data="mnist-svhn-text",
        data_options={"pairs": 20},
        likelihoods={"mnist": "laplace", "svhn": "laplace"},
        scales={"mnist": 0.75, "svhn": 0.75},
        latent_dim=20,
        architectures={"mnist": "shallow", "svhn": "plain", "text": "characters"},
        options={"beta": 2.5, "weights": "dimension"},
        training={"epochs": 150, "batch_size": 256, "lr": 1e-3},
        departures=(
            "A beta of 2.5 is that of the released job; the value is missing in our copy of the paper, and may be 5.",
            _LOGARITHM,
            *_MOPOE_BASELINES,
        ),
    ),
    Preset(
        name="mopoe/polymnist",
        source=f"{_MOPOE}, section 4.2 and appendix D.2",
        methods=_MOPOE_METHODS,
        data="polymnist",
        likelihoods={f"m{number}": "laplace" for number in range(5)},
        scales={f"m{number}": 0.75 for number in range(5)},
        latent_dim=512,
        architectures={f"m{number}": "convolutional" for number in range(5)},
        options={"beta": 2.5},
        training={"epochs": 300, "batch_size": 256, "lr": 1e-3},
        departures=(
            "A beta of 2.5 is that of the released code; the value is missing in our copy of the paper.",
            "The learning rate is the paper's, 0.001; the released job has 0.0005.",
            _LOGARITHM,
            *_MOPOE_BASELINES,
        ),
    ),
    Preset(
        name="mopoe/celeba",
        source=f"{_MOPOE}, section 4.3 and appendix E.2",
        methods={name: {**options, "private": 32} for name, options in _MOPOE_METHODS.items()},
        data="celeba",
        data_options={"form": "text"},
        likelihoods={"image": "laplace"},
        scales={"image": 0.75},
        latent_dim=32,
        architectures={"image": "residual", "text": "residual"},
        options={"beta": 2.5, "weights": {"image": 1 / 3, "text": 16.0}, "private_beta": {"image": 2.0, "text": 10.0}},
        training={"epochs": 200, "batch_size": 256, "lr": 5e-4},
        departures=(
            "A beta of 2.5 and the weights are those of the released code: an image of 4,096 pixels counts as much as "
            "a text of 256 characters. The paper gives the dominant modality a weight of 1.",
            _LOGARITHM,
            *_MOPOE_BASELINES,
        ),
    ),
    Preset(
        name="bridged/mnist",
        source=f"{_BRIDGED}, section 4, Tables 1 and 2",
        methods={"bridged": {}, "vae": {}, "jmvae": {}, "jmvae-kl": {}, "telbo": {}, "mvae": {}, "bivcca": {}},
        data="mnist",
        data_options={"binarize": "dynamic"},
        latent_dim=128,
        architectures=dict.fromkeys(("image", "label"), "normalized"),
        training={"epochs": 500, "batch_size": 128, "lr": 1e-4},
        departures=(
            *_BRIDGED_NETWORKS,
            "The paper does not say how images are binarized: pixels are sampled anew in each epoch, once for test.",
            "Each stage of the bridged VAE and of TELBO trains for all epochs.",
        ),
    ),
    Preset(
        name="bridged/celeba",
        source=f"{_BRIDGED}, section 4, Tables 3 and 5",
        methods={"bridged": {}, "vae": {}, "jmvae": {}, "jmvae-kl": {}, "telbo": {}, "mvae": {}, "bivcca": {}},
        data="celeba",
        data_options={"form": "visual"},
        likelihoods={"image": "discretized_logistic"},
        scales={"image": "learned"},
        latent_dim=128,
        architectures=dict.fromkeys(("image", "attributes"), "normalized"),
        training={"epochs": 100, "batch_size": 128, "lr": 1e-4},
        departures=(
            *_BRIDGED_NETWORKS,
            "The paper does not give the crop of the images: here the central 148x148 pixels, resized.",
            "One scale of the logistic distribution is learned for all pixels: the paper does not specify the scales.",
        ),
    ),
    Preset(
        name="bridged/mnist-fashion",
        source=f"{_BRIDGED}, section 4, Table 4",
        methods={"bridged": {}, "jmvae-kl": {}, "telbo": {}, "mvae": {}},
        data="mnist-fashion",
        data_options={"binarize": "dynamic", "pairs": 1},
        latent_dim=128,
        architectures=dict.fromkeys(("image", "fashion", "label"), "normalized"),
        training={"epochs": 500, "batch_size": 128, "lr": 1e-4},
        departures=(
            *_BRIDGED_NETWORKS,
            "The paper does not say how images are paired: here one to one, at random within each class.",
        ),
    ),
    Preset(
        name="vlvae/two-objects",
        source=f"{_VLVAE}, appendix 5.1 to 5.3",
        methods={"vlvae": {"shared": True}},
        data="two-objects",
        latent_dim=50,
        architectures={"image": "instance", "text": "gru"},
        options={"warmup": 20_000, "warmup_unit": "step", "weights": {"image": 0.02, "text": 200.0}},
        training={"epochs": 89, "batch_size": 20, "lr": 4e-4},
        departures=(
            *_VLVAE_DEPARTURES,
            "The scenes are rendered by VTK: those of the paper are not published.",
        ),
    ),
    Preset(
        name="vlvae/celeba",
        source=f"{_VLVAE}, appendix 5.1 to 5.3",
        methods={"vlvae": {"shared": True}},
        data="celeba",
        data_options={"form": "words", "crop": "pooled"},
        likelihoods={"image": "beta"},
        latent_dim=50,
        architectures={"image": "instance", "text": "gru"},
        options={"warmup": 20_000, "warmup_unit": "step", "weights": {"image": 0.1, "text": 100.0}},
        training={"epochs": 49, "batch_size": 20, "lr": 4e-4},
        departures=(
            *_VLVAE_DEPARTURES,
            "The published partition of CelebA takes the place of a split by the number of the image.",
        ),
    ),
    Preset(
        name="vlvae/one-object",
        source=f"{_VLVAE}, appendix 5.5, Figure 1",
        methods={"vlvae": {"shared": True}},
        data="one-object",
        latent_dim=2,
        architectures={"image": "instance", "text": "gru"},
        options={"warmup": 20_000, "warmup_unit": "step", "weights": {"image": 0.02, "text": 200.0}},
        training={"epochs": 667, "batch_size": 20, "lr": 4e-4},
        departures=(
            *_VLVAE_DEPARTURES,
            "300,000 steps are those of the later code; the number of images is not published, 9,000 are rendered.",
        ),
    ),
    Preset(
        name="mmjsd/mnist-svhn-text",
        source="Sutter et al., 2020, Multimodal Generative Learning Utilizing Jensen-Shannon-Divergence; released code",
        methods={"mmjsd": {}},
        data="mnist-svhn-text",
        data_options={"pairs": 20},
        likelihoods={"mnist": "laplace", "svhn": "laplace"},
        scales={"mnist": 0.75, "svhn": 0.75},
        latent_dim=20,
        architectures={"mnist": "shallow", "svhn": "plain", "text": "characters"},
        options={"beta": 2.5, "weights": "dimension"},
        training={"epochs": 100, "batch_size": 256, "lr": 5e-4},
        departures=(_LOGARITHM,),
    ),
    Preset(
        name="mmvae+/polymnist",
        source="Palumbo et al., 2023, MMVAE+; released code",
        methods={"mmvae+": {"private": 32, "particles": 1}},
        data="polymnist",
        likelihoods={f"m{number}": "laplace" for number in range(5)},
        scales={f"m{number}": 0.75 for number in range(5)},
        latent_dim=32,
        architectures={f"m{number}": "convolutional" for number in range(5)},
        training={"epochs": 150, "batch_size": 128, "lr": 1e-3, "optimizer": "amsgrad"},
        departures=(
            "The networks are MoPoE's for this data, not the residual ones of the paper.",
            "A beta of 1 is the default of the released code; 2.5 is used too.",
        ),
    ),
)

#: The presets by name.
PRESETS: dict[str, Preset] = {one.name: one for one in _ALL}
