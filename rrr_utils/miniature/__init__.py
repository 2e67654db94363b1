"""The embedded models: corpora, tokenizers, pre-training and gate. Only notebook A1 and tests import it."""
