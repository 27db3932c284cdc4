"""Text as a distribution over sequences of tokens, one conditional a position."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["AutoregressiveCategorical", "AutoregressiveText"]


NextToken = Callable[[int, Tensor], Tensor]


class AutoregressiveCategorical(dist.TorchDistribution):
    r"""Sequences of a fixed length whose every token depends on those before it.

    .. math:: p(y \mid z) = \prod_{t=1}^{T} p(y_t \mid y_{<t}, z)

    Args:
        features: What the sequences depend on, `(..., batch, features)`.
        decode: Called with features `(rows, features)` and a function from position and logits `(rows, num_classes)`
            to that position's tokens `(rows,)`; returns the logits of all positions, `(rows, length, num_classes)`.
        length: Number of tokens `T`.
        num_classes: Number of different tokens.
        temperature: Divides the logits where samples are drawn; densities are those of temperature 1.

    Shapes:
        Batch `(..., batch)`, event `(length,)`, values int64.

    Example:
        >>> text = AutoregressiveText(nn.Linear(2, 8), num_classes=3, length=4)(torch.zeros(5, 2))
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
        validate_args: bool | None = None,
    ) -> None:
        self.features, self.decode = features, decode
        self.length, self.num_classes, self.temperature = length, num_classes, temperature
        super().__init__(features.shape[:-1], torch.Size([length]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Token ids from 0 to `num_classes - 1`."""
        return constraints.independent(constraints.integer_interval(0, self.num_classes - 1), 1)

    def expand(self, batch_shape, _instance=None):
        features = self.features.expand(*batch_shape, self.features.shape[-1])
        settings = (self.decode, self.length, self.num_classes, self.temperature)
        return AutoregressiveCategorical(features, *settings, validate_args=self._validate_args)

    def logits(self, value: Tensor) -> Tensor:
        """Log-probabilities of every token at every position, given the tokens of `value` before it.

        Args:
            value: Token ids `(..., batch, length)`; of the last position nothing is read.

        Returns:
            Normalized logits `(..., batch, length, num_classes)`.
        """
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        tokens = value.expand(*lead, self.length).reshape(-1, self.length)
        logits = self.decode(self._rows(lead), lambda position, _: tokens[:, position])
        return logits.log_softmax(-1).reshape(*lead, self.length, self.num_classes)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits(value)
        return logits.gather(-1, value.expand(*logits.shape[:-1]).unsqueeze(-1)).squeeze(-1).sum(-1)

    def sample(self, sample_shape=()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        return self._decoded(shape, lambda logits: dist.Categorical(logits=logits / self.temperature).sample())

    @property
    def mode(self) -> Tensor:
        """The greedy sequence, `(..., batch, length)`: at each position the likeliest token after those before it."""
        return self._decoded(self.batch_shape, lambda logits: logits.argmax(-1))

    @torch.no_grad()
    def _decoded(self, shape: torch.Size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        tokens: list[Tensor] = []

        def next_token(_: int, logits: Tensor) -> Tensor:
            tokens.append(choose(logits))
            return tokens[-1]

        self.decode(self._rows(shape), next_token)
        return torch.stack(tokens, -1).reshape(*shape, self.length)

    def _rows(self, shape: torch.Size) -> Tensor:
        size = self.features.shape[-1]
        return self.features.expand(*shape, size).reshape(-1, size)


class AutoregressiveText(nn.Module):
    r"""The likelihood of a text: a recurrent decoder that sees the latents and the tokens before each position.

    .. math:: h_t = \mathrm{GRU}(h_{t-1}, [e(y_{t-1}), f(z)]), \qquad
        p(y_t \mid y_{<t}, z) = \mathrm{softmax}(g(h_t))

    The embedding before the first token and the first hidden state are zero. Scored by teacher forcing, sampled token
    by token; what stands for it in a picture or a metric is the greedy sequence.

    References:
        On the Importance of Learning Aggregate Posteriors in Multimodal Variational Autoencoders (Cremer and
        Kushman), section 5.1 (text decoder). Departure: the head is one hidden layer, without batch norm (whose
        statistics would run over positions) and without the residual connection.

    Args:
        network: Feature network `f` from latents `(..., batch, latent_dim)`; its attribute `out_features` gives their
            number.
        num_classes: Number of different tokens.
        length: Number of tokens `T` of a text.
        embedding_features: Size of a token's embedding.
        hidden_features: Size of the hidden state.
        token_dropout: Share of the teacher-forced embeddings set to zero in training, so that the decoder has to
            look at `z`. The bound is then that of a decoder with noise, not of the one that is evaluated.
        temperature: Divides the logits where texts are sampled.

    Raises:
        TypeError: If the network does not say its `out_features`.
        ValueError: If a number is out of its range.

    Example:
        >>> text = AutoregressiveText(nn.Linear(2, 8), num_classes=3, length=4)
        >>> text(torch.zeros(6, 5, 2)).batch_shape
        torch.Size([6, 5])
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        length: int,
        embedding_features: int = 100,
        hidden_features: int = 200,
        token_dropout: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        features = getattr(network, "out_features", None)
        if features is None:
            raise TypeError(f"a text's network needs an attribute out_features, {type(network).__name__} has none")
        if num_classes < 1 or length < 1:
            raise ValueError(f"num_classes and length must be at least 1, got {num_classes} and {length}")
        if not 0 <= token_dropout < 1:
            raise ValueError(f"token_dropout must lie in [0, 1), got {token_dropout}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.network, self.num_classes, self.length = network, num_classes, length
        self.token_dropout, self.temperature = token_dropout, temperature
        self.decoder = _Decoder(features, num_classes, embedding_features, hidden_features)

    def forward(self, latents: Tensor) -> AutoregressiveCategorical:
        """`p(y | z)` of batch shape `(..., batch)`."""
        # the decoder runs when a text is scored or drawn; its parameters and mode are those of this call, so that a
        # program frozen during its call stays frozen then
        decoder, parameters = self.decoder, dict(self.decoder.named_parameters())
        settings = (self.length, self.token_dropout if self.training else 0.0)

        def decode(features: Tensor, next_token: NextToken) -> Tensor:
            return functional_call(decoder, parameters, (features, next_token, *settings))

        return AutoregressiveCategorical(self.network(latents), decode, self.length, self.num_classes, self.temperature)

    def check(self, values: Tensor, name: str) -> None:
        """Checks observed texts, int64 `(batch, length)`.

        Raises:
            TypeError: If they are not int64.
            ValueError: If the shape is wrong or an id is none of the tokens.
        """
        if not isinstance(values, Tensor) or values.dtype != torch.int64:
            seen = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"modality {name!r} is text and must hold int64 token ids, got {seen}")
        if tuple(values.shape[1:]) != (self.length,):
            raise ValueError(f"modality {name!r} must have shape (batch, {self.length}), got {tuple(values.shape)}")
        if values.numel() and (values.min() < 0 or values.max() >= self.num_classes):
            raise ValueError(
                f"modality {name!r} must hold token ids 0 to {self.num_classes - 1}, "
                f"got {values.min().item()} to {values.max().item()}"
            )


class _Decoder(nn.Module):
    """Features `(rows, features)` to the logits of all positions, given how the tokens come about."""

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
            embedded = self.embedding(next_token(position, logits[-1]))
            if dropout:
                embedded = embedded * (torch.rand_like(embedded[:, :1]) >= dropout)
        return torch.stack(logits, 1)
