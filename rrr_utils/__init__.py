"""rrr: a notebook-first reproducibility kit for *Reflect, Retry, Reward* (arXiv 2505.24726)."""

import logging

# at import, bitsandbytes looks for a faster 4-bit kernel for CPUs, which `policy.exact_4bit` would decline anyway
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
