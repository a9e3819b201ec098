"""Agents on the Hugging Face Hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from snn_rl.utils.errors import UserError, one_line

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

        return Path(snapshot_download(repository, allow_patterns=[CONFIG, MODEL]))


def check_upload(repository: str) -> None:
    """Checks the name of a repository and the login before a long computation.

    Raises:
        UserError: huggingface_hub is missing, the name is invalid, or there is no valid login.
    """
    with _errors(f"cannot upload to {repository}"):
        from huggingface_hub import HfApi

        api = HfApi(library_name="snn_rl")
        api.whoami()
        api.repo_exists(repository)  # checks the name


def upload(folder: Path, repository: str) -> str:
    """Uploads a folder and returns its address.

    A repository that does not exist is created, as a public one.

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
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"{task}: run `pip install huggingface_hub`") from None
    # The bases include all errors of the HTTP client, such as a refused connection.
    client = cast(tuple[type[Exception], ...], errors.HfHubHTTPError.__bases__)
    expected: tuple[type[Exception], ...] = (errors.HFValidationError, *client)
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{task}: log in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        reason = "it does not exist, or it is private (log in with `hf auth login`)"
        raise UserError(f"{task}: {reason}") from None
    except expected as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{task}: {reason}") from None
