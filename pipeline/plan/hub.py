"""What only the Hugging Face hub can answer, asked where it can be reached and listed as unchecked where it cannot."""

from __future__ import annotations

from pathlib import Path

from pipeline.recipe import Complaint, Recipe

TIMEOUT = 5.0
"""Seconds to wait for the hub: a plan should not hang where a firewall swallows the packets."""


class Hub:
    """The hub as a plan sees it. After the first failure to connect it is not asked again."""

    def __init__(self) -> None:
        from huggingface_hub import constants

        self.offline = bool(constants.HF_HUB_OFFLINE)
        self.unchecked: list[str] = []

    def ask(self, recipe: Recipe, key: str, name: str) -> Complaint | None:
        """Whether the model or the dataset that `key` names exists; a complaint when the hub says that it does not."""
        import httpx
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

        kind = "dataset" if key.startswith(("dataset", "evaluations")) or key == "input" else "model"
        if not self.offline:
            try:
                HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
                return None
            except GatedRepoError:
                self.unchecked.append(f"{recipe.path}: {key}: {name} is gated; log in with `hf auth login` to use it")
                return None
            except (RepositoryNotFoundError, HFValidationError):
                where = recipe.source.where(key) if recipe.source else str(recipe.path)
                return Complaint(where, f"{name} is neither a path nor a {kind} on the hub", key)
            except (OSError, httpx.HTTPError):
                self.offline = True
        self.unchecked.append(f"{recipe.path}: {key}: whether {name} exists on the hub")
        return None

    def config_folder(self, name: str, revision: str | None) -> Path | None:
        """The folder that holds a hub model's `config.json`: from the cache, or downloaded where that is possible."""
        import httpx
        from huggingface_hub import hf_hub_download

        try:
            file = hf_hub_download(
                name, "config.json", revision=revision, local_files_only=self.offline, etag_timeout=TIMEOUT
            )
        except (OSError, ValueError, httpx.HTTPError):  # not there, not reachable, or no name of a model
            return None
        return Path(file).parent
