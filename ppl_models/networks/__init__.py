"""Networks: encoders, decoders, heads and flows."""

__all__: list[str] = []
