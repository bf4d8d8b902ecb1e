"""Editors: requests in, an edit out."""
