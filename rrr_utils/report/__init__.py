"""From result files to tables, figures and reports: no model, no GPU, no torch."""

from rrr_utils.report.frames import grid, load, runs  # noqa: F401
