"""Agents on the Hugging Face Hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snn_rl.utils.errors import UserError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# In a repository
CONFIG = "config.json"  # settings of the agent
MODEL = "model.safetensors"  # its network
CARD = "README.md"


def is_repository(name: str) -> bool:
    """Returns True if a name has the form USER/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


def download(repository: str) -> Path:
    """Downloads an agent, unless it is up to date in the local cache, and returns its folder.

    Raises:
        UserError: huggingface_hub is missing, or the agent cannot be downloaded.
    """
    with _errors(f"cannot download {repository}"):
        from huggingface_hub import snapshot_download

        # Only files that are read: nothing of a foreign repository is executed.
        return Path(snapshot_download(repository, allow_patterns=[CONFIG, MODEL, CARD]))


def upload(folder: Path, repository: str) -> str:
    """Uploads a folder, creates the repository if necessary, and returns its address.

    Raises:
        UserError: huggingface_hub is missing, or the folder cannot be uploaded.
    """
    with _errors(f"cannot upload to {repository}"):
        from huggingface_hub import HfApi

        api = HfApi(library_name="snn_rl")
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
        return str(address)


@contextmanager
def _errors(task: str) -> Iterator[None]:
    """Turns errors of huggingface_hub and of the network into one line."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] != "huggingface_hub":
            raise
        raise UserError(f"{task}: run `pip install huggingface_hub`") from None
    except Exception as error:
        if not _is_of_the_network(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{task}: {reason[0]}") from None


def _is_of_the_network(error: Exception) -> bool:
    kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__]
    return isinstance(error, OSError) or any(
        kind.startswith(("huggingface_hub.errors.", "httpx")) for kind in kinds
    )
