"""A stage that is finished without being run, for tests of folders and identities."""

from __future__ import annotations

from rrr_utils import runs


def hash_of(settings, stage):
    return runs.identity_hash(runs.identity(settings, stage))


def finish(settings, stage, text="content"):
    """A stage's result, and before it those that it reads."""
    for one, name in runs.upstream(settings, stage):
        if not runs.done(one, name):
            finish(one, name)
    with runs.begin(settings, stage) as (folder, settings):
        (folder / "out.txt").write_text(text)
        return runs.finish(settings, stage, [folder / "out.txt"], {"n": 1})
