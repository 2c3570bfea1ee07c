"""The corpus: read, extract, deduplicate, split, and the tokenizer and token shards made from it."""
