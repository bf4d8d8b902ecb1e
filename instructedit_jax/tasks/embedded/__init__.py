"""Small data for all four tasks, composed by `generate.py`."""
