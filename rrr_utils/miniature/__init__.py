"""The embedded models: corpora, tokenizers, pre-training, gate. For notebook A1 and tests alone."""
