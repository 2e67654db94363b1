"""rrr: a notebook-first reproducibility kit for *Reflect, Retry, Reward* (arXiv 2505.24726)."""

__version__ = "0.1.0"
