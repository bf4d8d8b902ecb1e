"""Programs that measure, side by side with plain PyTorch."""

import os

# PyTorch's idle threads would otherwise spin while JAX is timed beside them.
# Read when the library is loaded, so it is set before anything else here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
