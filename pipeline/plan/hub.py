"""What only the Hugging Face hub can answer, asked where it can be reached and listed as unchecked where it cannot."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.recipe import Recipe

TIMEOUT = 5.0
"""Seconds to wait for the hub: a plan should not hang where a firewall swallows the packets."""


class Hub:
    """The hub as a plan sees it. After the first failure to connect it is not asked again."""

    def __init__(self) -> None:
        from huggingface_hub import constants

        self.offline = bool(constants.HF_HUB_OFFLINE)
        self.unchecked: list[str] = []

    def ask(self, recipe: Recipe, key: str, name: str) -> None:
        """Whether the model or the dataset exists. Raises `PipelineError` when the hub says that it does not."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        is_dataset = key.startswith("dataset") or key == "input"
        if not self.offline:
            try:
                HfApi().repo_info(name, repo_type="dataset" if is_dataset else "model", timeout=TIMEOUT)
                return
            except GatedRepoError:
                self.unchecked.append(f"{recipe.path}: {key}: {name} is gated; log in with `hf auth login` to use it")
                return
            except RepositoryNotFoundError as error:
                kind = "dataset" if is_dataset else "model"
                raise PipelineError(f"{recipe.path}: {key}: neither a path nor a {kind} on the hub: {name}") from error
            except OSError:  # every failure to connect, timeouts included
                self.offline = True
        self.unchecked.append(f"{recipe.path}: {key}: whether {name} exists on the hub")

    def config_folder(self, name: str, revision: str | None) -> Path | None:
        """The folder that holds the `config.json` of a hub model: from the cache, or downloaded where that is possible."""
        from huggingface_hub import hf_hub_download

        try:
            file = hf_hub_download(
                name, "config.json", revision=revision, local_files_only=self.offline, etag_timeout=TIMEOUT
            )
        except OSError:
            return None
        return Path(file).parent
