"""Texts as a distribution over sequences of tokens, one conditional distribution per position."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.func import functional_call

from multipyro._distributions import common_shape
from multipyro.ppl_models.likelihoods.base import Likelihood, check_class_ids
from multipyro.ppl_models.networks._layers import embed

__all__ = ["AutoregressiveCategorical", "AutoregressiveTextLikelihood"]

NextToken = Callable[[int, Tensor], Tensor]


class AutoregressiveCategorical(dist.TorchDistribution):
    r"""Sequences of a fixed length in which every token depends on those before it.

    .. math:: p(y \mid z) = \prod_{t=1}^{T} p(y_t \mid y_{<t}, z)

    Args:
        features: What the sequences are conditioned on, `(..., batch, features)`.
        decode: Called with features `(n, features)` and a function from a position and its logits `(n, num_classes)` to
            the tokens `(n,)` at that position; returns the logits of all positions, `(n, length, num_classes)`.
        length: Number of tokens `T`.
        num_classes: Number of different tokens.
        temperature: Divides the logits when sampling; densities are those of temperature 1.
        missing_entries: Whether tokens may be missing: -1, whose factor is left out.

    Shapes:
        Batch `(..., batch)`, event `(length,)`, values int64.

    Example:
        >>> text = AutoregressiveTextLikelihood(nn.Linear(2, 8), num_classes=3, length=4)(torch.zeros(5, 2))
        >>> text.sample().shape, text.log_prob(text.mode).shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    arg_constraints = {}
    has_rsample = False

    def __init__(
        self,
        features: Tensor,
        decode: Callable[[Tensor, NextToken], Tensor],
        length: int,
        num_classes: int,
        temperature: float = 1.0,
        missing_entries: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.features, self.decode = features, decode
        self.length, self.num_classes, self.temperature = length, num_classes, temperature
        self.missing_entries = missing_entries
        super().__init__(features.shape[:-1], torch.Size([length]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Token ids from 0 to `num_classes - 1`, from -1 if tokens may be missing."""
        return constraints.independent(constraints.integer_interval(-self.missing_entries, self.num_classes - 1), 1)

    def expand(self, batch_shape, _instance=None) -> "AutoregressiveCategorical":
        """The same distribution with a larger batch shape."""
        features = self.features.expand(*batch_shape, self.features.shape[-1])
        settings = (self.decode, self.length, self.num_classes, self.temperature, self.missing_entries)
        return AutoregressiveCategorical(features, *settings, validate_args=self._validate_args)

    def logits(self, value: Tensor) -> Tensor:
        """Log-probabilities of every token at every position, given the tokens of `value` before it.

        Args:
            value: Token ids `(..., batch, length)`; the last token is not read.

        Returns:
            Normalized logits `(..., batch, length, num_classes)`.
        """
        lead = common_shape(value.shape[:-1], self.batch_shape)
        tokens = value.expand(*lead, self.length).reshape(-1, self.length)
        logits = self.decode(self._features(lead), lambda position, _: tokens[:, position])
        return logits.log_softmax(-1).reshape(*lead, self.length, self.num_classes)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of whole sequences, `(..., batch)`."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits(value)
        tokens = value.expand(*logits.shape[:-1])
        log_probs = logits.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return (log_probs.masked_fill(tokens < 0, 0.0) if self.missing_entries else log_probs).sum(-1)

    def sample(self, sample_shape=()) -> Tensor:
        """Sequences sampled token by token, `(*sample_shape, ..., batch, length)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        return self._generate(shape, lambda logits: dist.Categorical(logits=logits / self.temperature).sample())

    @property
    def mode(self) -> Tensor:
        """The greedy sequence, `(..., batch, length)`: at each position the most probable token given those before."""
        return self._generate(self.batch_shape, lambda logits: logits.argmax(-1))

    @torch.no_grad()
    def _generate(self, shape: torch.Size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        tokens: list[Tensor] = []

        def next_token(_: int, logits: Tensor) -> Tensor:
            tokens.append(choose(logits))
            return tokens[-1]

        self.decode(self._features(shape), next_token)
        return torch.stack(tokens, -1).reshape(*shape, self.length)

    def _features(self, shape: torch.Size) -> Tensor:
        size = self.features.shape[-1]
        return self.features.expand(*shape, size).reshape(-1, size)


class AutoregressiveTextLikelihood(Likelihood):
    r"""The likelihood of a text: a recurrent decoder whose input is the latent and the tokens before each position.

    .. math:: h_t = \mathrm{GRU}(h_{t-1}, [e(y_{t-1}), f(z)]), \qquad
        p(y_t \mid y_{<t}, z) = \mathrm{softmax}(g(h_t))

    The embedding before the first token and the first hidden state are zero. Texts are scored by teacher forcing and
    sampled token by token; in images and metrics the greedy sequence represents the distribution.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1 (text decoder). Departure: the head is one hidden layer, without batch norm (whose
        statistics would run over positions) and without the residual connection.

    Args:
        network: Feature network `f` from latents `(..., batch, latent_dim)`; its attribute `out_features` is their
            number.
        num_classes: Number of different tokens.
        length: Number of tokens `T` of a text.
        embedding_features: Size of a token's embedding.
        hidden_features: Size of the hidden state.
        token_dropout: Probability in training that the embedding of a previous token is replaced by zeros, so that the
            decoder has to use `z`. The bound is then that of a decoder with noise, not of the one that is evaluated.
        temperature: Divides the logits when texts are sampled.
        missing_entries: Whether tokens may be missing: -1, embedded as zeros and left out of the density.

    Raises:
        TypeError: If the network has no attribute `out_features`.
        ValueError: If a number is out of range.

    Example:
        >>> text = AutoregressiveTextLikelihood(nn.Linear(2, 8), num_classes=3, length=4)
        >>> text(torch.zeros(6, 5, 2)).batch_shape
        torch.Size([6, 5])
    """

    independent_entries = False

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        length: int,
        embedding_features: int = 100,
        hidden_features: int = 200,
        token_dropout: float = 0.0,
        temperature: float = 1.0,
        missing_entries: bool = False,
    ) -> None:
        super().__init__(network, missing_entries)
        features = getattr(network, "out_features", None)
        if features is None:
            raise TypeError(f"the network of a text needs an attribute out_features, {type(network).__name__} has none")
        if num_classes < 1 or length < 1:
            raise ValueError(f"num_classes and length must be at least 1, got {num_classes} and {length}")
        if not 0 <= token_dropout < 1:
            raise ValueError(f"token_dropout must lie in [0, 1), got {token_dropout}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.num_classes, self.length = num_classes, length
        self.token_dropout, self.temperature = token_dropout, temperature
        self.decoder = _Decoder(features, num_classes, embedding_features, hidden_features)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one text."""
        return (self.length,)

    def distribution(self, outputs: Tensor) -> AutoregressiveCategorical:
        # the decoder runs when a text is scored or sampled, with its parameters and mode at the time of this call: a
        # program that is frozen during its call stays frozen then
        decoder, parameters = self.decoder, dict(self.decoder.named_parameters())
        settings = (self.length, self.token_dropout if self.training else 0.0)

        def decode(features: Tensor, next_token: NextToken) -> Tensor:
            return functional_call(decoder, parameters, (features, next_token, *settings))

        return AutoregressiveCategorical(
            outputs, decode, self.length, self.num_classes, self.temperature, self.missing_entries
        )

    def check_values(self, values: Tensor, name: str) -> None:
        check_class_ids(values.clamp(min=0) if self.missing_entries else values, name, self.num_classes)


class _Decoder(nn.Module):
    """Features `(n, features)` to the logits of all positions, given how each next token comes about."""

    def __init__(self, features: int, num_classes: int, embedding_features: int, hidden_features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embedding_features)
        # a cell in a loop: sampling goes step by step, and cuDNN's networks have no backward in evaluation mode
        self.cell = nn.GRUCell(embedding_features + features, hidden_features)
        self.head = nn.Sequential(
            nn.Linear(hidden_features, hidden_features), nn.ReLU(), nn.Linear(hidden_features, num_classes)
        )

    def forward(self, features: Tensor, next_token: NextToken, length: int, dropout: float) -> Tensor:
        embedded = features.new_zeros(len(features), self.embedding.embedding_dim)
        hidden, logits = None, []
        for position in range(length):
            hidden = self.cell(torch.cat([embedded, features], -1), hidden)
            logits.append(self.head(hidden))
            embedded = embed(self.embedding, next_token(position, logits[-1]))
            if dropout:
                embedded = embedded * (torch.rand_like(embedded[:, :1]) >= dropout)
        return torch.stack(logits, 1)
