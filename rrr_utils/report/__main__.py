"""Results without a model: verdicts again, the list of runs, publishing, the records of trials and ablations."""

import argparse
import sys

from rrr_utils.errors import PLAIN, SettingsError
from rrr_utils.report import ablations, cells, listing, publish, trials
from rrr_utils.settings import load


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise SettingsError(f"{message}; python -m rrr_utils.report --help says more")


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, or 2 with one line on stderr where something was refused."""
    parser = _Parser(prog="python -m rrr_utils.report", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--rescore", metavar="DIR", help="verdicts and cells of an evaluation again")
    action.add_argument("--runs", action="store_true", help="list every run, with what differs from the profile")
    action.add_argument("--publish", action="store_true", help="copy the tables and their runs to results/<profile>/")
    action.add_argument("--trials", action="store_true", help="the record of data/trials.yaml in results/<profile>/")
    action.add_argument("--ablations", action="store_true", help="the record of data/ablations.yaml, likewise")
    action.add_argument("--delete", metavar="NAME", nargs="+", default=[], help="remove these runs, list the others")
    parser.add_argument("--task", metavar="FILE", help="with --rescore: where your own task's .py file lies now")
    parser.add_argument("--force", action="store_true", help="with --publish: even if rows get lost")
    parser.add_argument("--profile", default="tiny", help="a name in data/profiles, or the path of a YAML file")
    parser.add_argument("--results-dir", default="results/runs", help="where the runs are")
    try:
        given = parser.parse_args(arguments)
        settings = load(given.profile, {"results_dir": given.results_dir})
        if given.rescore:
            print(cells.rescore(given.rescore, task=given.task).to_string(index=False))
        elif given.publish:
            print(f"published to {publish.publish(settings, force=given.force)}")
        elif given.trials:
            print(trials.record(settings).to_string(index=False))
        elif given.ablations:
            print(ablations.record(settings).read_text(encoding="utf-8"))
        else:
            print("\n".join([*listing.delete(settings, given.delete), listing.overview(settings)]))
    except (*PLAIN, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
