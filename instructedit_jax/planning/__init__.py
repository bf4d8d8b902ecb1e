"""What a run needs, computed from shapes alone."""
