"""The newest checkpoint that is whole.

The Trainer takes the highest number unseen: a half-written directory crashes it, and a missing optimizer or random state is
replaced by a fresh one without a word. A run that was killed while saving must go on from the save before.
"""

import json
import re
import struct
from pathlib import Path

from pipeline.errors import PipelineError


def newest_checkpoint(folder: Path, world_size: int = 1, up_to: int | None = None) -> Path | None:
    """The `checkpoint-N` below `folder` with the highest N whose files are all there and readable.

    Args:
        folder: The Trainer's output directory.
        world_size: Processes, each of which saves its own random state.
        up_to: The highest N that will do.

    Raises:
        PipelineError: Another number of processes saved it. The recipe's batch is that of one process, so that step N would
            stand for other rows in every stage, also in pretraining, whose order is the same for any number of them.
    """
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    if up_to is not None:
        found = [path for path in found if _step(path) <= up_to]
    for path in sorted(found, key=_step, reverse=True):
        others = _saved_by_others(path, world_size)
        if others:
            raise PipelineError(
                f"{path}: saved by a run of {others} processes, this one has {world_size}: an optimizer step of the same "
                f"recipe takes another number of rows, and {path.name} would stand for others than were read. Go on with "
                f"{others}, or start anew with --overwrite."
            )
        missing = what_is_missing(path, world_size)
        if not missing:
            return path
        print(f"{path}: not whole ({', '.join(missing)}); looking for an older one", flush=True)
    if found:
        print(f"{folder}: no whole checkpoint; training starts from its beginning", flush=True)
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _saved_by_others(checkpoint: Path, world_size: int) -> int | None:
    """The number of processes that saved a whole checkpoint, where it is not `world_size`."""
    ranks = 1 if (checkpoint / "rng_state.pth").is_file() else len(list(checkpoint.glob("rng_state_*.pth")))
    more = ranks > world_size or ranks == 1 < world_size  # fewer, but several: a save that was cut short
    return ranks if more and not what_is_missing(checkpoint, ranks) else None


def what_is_missing(checkpoint: Path, world_size: int = 1) -> list[str]:
    """Names of the files without which going on from a checkpoint would not be exact."""
    sharded = (checkpoint / "latest").is_file() or any(checkpoint.glob("pytorch_model_fsdp_*"))
    wanted = ["trainer_state.json"] if sharded else ["trainer_state.json", "scheduler.pt", "optimizer.pt"]
    names = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing = [name for name in (*wanted, *names) if not _whole(checkpoint / name)]
    if not sharded:
        weights = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("pytorch_model*.bin")]
        if not weights:
            missing.append("weights")
        missing += [path.name for path in weights if path.suffix == ".safetensors" and not _whole_safetensors(path)]
        index = checkpoint / "model.safetensors.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            missing += sorted(name for name in shards if not (checkpoint / name).is_file())
    else:
        tag = (checkpoint / "latest").read_text().strip() if (checkpoint / "latest").is_file() else None
        if tag and not any((checkpoint / tag).glob("*optim_states.pt")):
            missing.append(f"{tag}/*optim_states.pt")
    return missing


def _whole(path: Path) -> bool:
    """Whether a file is there and, for JSON and torch's zip files, ends as such files do."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            return False
        return True
    with path.open("rb") as file:  # A zip file ends in 22 bytes that begin with this mark.
        file.seek(max(0, path.stat().st_size - 22))
        return file.read(4) == b"PK\x05\x06"


def _whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header says."""
    size = path.stat().st_size
    if size < 8:
        return False
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            return False
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0) == size
