"""The server that local workers are forked from: it imports once what all of them need, while the stage still starts."""

from pipeline.corpus.settings import FILTERS_OF_WORDS, CorpusSettings, library


def start_server(settings: CorpusSettings) -> None:
    """Start the server, unless it runs or no worker will need it, and return at once."""
    import multiprocess
    from multiprocess.forkserver import ensure_running

    if settings.executor == "local" and settings.workers != 1:
        compared = settings.deduplicate == "minhash" or settings.compares_held_out
        words = compared or any(getattr(settings, name) for name in FILTERS_OF_WORDS)
        # pyarrow imports pandas as soon as it makes an array of Python objects
        modules = ["pipeline.corpus.phases", library(settings.extractor), "pandas"]
        modules += ["pipeline.corpus.words"] if words else []
        multiprocess.set_forkserver_preload(modules)
        ensure_running()
