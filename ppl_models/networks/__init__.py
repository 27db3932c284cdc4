"""Networks: encoders, decoders, heads and flows."""

__all__ = []
