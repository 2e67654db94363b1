"""Trains a stage's folder as `rrr_utils.training` does, alone or as one of several processes, with what is random forced:
a reflection depends on its prompt and on its place in the group alone, and a retry's verdict on the reflection alone.

python tests/helpers_processes.py FOLDER, or by torch.distributed.run. What is said on dev goes to FOLDER/said-RANK.jsonl.
"""

import json
import os
import random
import sys
import zlib
from pathlib import Path

from trl import GRPOTrainer

from rrr_utils import files, training
from rrr_utils.miniature import countdown as corpus
from rrr_utils.reward import RetryReward
from rrr_utils.sampling import Completion
from rrr_utils.settings import Settings

WORDS = "too high low the wrong sum I should try another number first and then add take".split()
folder, generate = Path(sys.argv[1]), RetryReward.generate


def reflections(self, prompt_ids, *_):
    made, first = [], self.accelerator.process_index * len(prompt_ids)  # shares of a batch lie in the processes' order
    for place, ids in enumerate(prompt_ids, first):
        rng = random.Random(f"{ids} {place % self.num_generations}")
        text = " ".join(rng.choices(WORDS, k=rng.randint(3, 20)))
        made.append(self.processing_class(text, add_special_tokens=False)["input_ids"])
    return made, None


def retries(self, rows, attempts, told, step, call=0):
    made = []
    for row, text in zip(rows, told, strict=True):
        steps, rng, right = corpus.steps(row["nums"]), random.Random(text), zlib.crc32(text.encode()) % 2
        said = corpus.right(steps, row["target"], rng) if right else corpus.wrong(steps, row["target"], rng)[0]
        made.append([Completion(said, False, 9)])
    return made


def noted(self, conversations, n, most, temperature, seed, base=False):
    made = generate(self, conversations, n, most, temperature, seed, base)
    lines = [{"heat": temperature, "asked": c, "said": own[0].text} for c, own in zip(conversations, made, strict=True)]
    files.append_jsonl(folder / f"said-{os.environ.get('RANK', 0)}.jsonl", lines)
    return made


GRPOTrainer._generate_single_turn, RetryReward.retry, RetryReward.generate = reflections, retries, noted
training._train(Settings(**json.loads((folder / "settings.json").read_text())), folder)
