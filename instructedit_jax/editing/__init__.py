"""Edits, and what they are made from."""
