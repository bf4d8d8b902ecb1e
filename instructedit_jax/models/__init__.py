"""Decoders, their weights and tokenizers, and text generation."""
