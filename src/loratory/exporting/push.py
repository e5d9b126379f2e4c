"""An exported directory goes to the Hugging Face hub, with the user's own token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loratory.errors import ResourceError, SettingsError, StorageError, first_line


@dataclass(frozen=True)
class Upload:
    """A repository of the hub, and who may see it."""

    repository: str
    public: bool = False


def ready(upload: Upload) -> None:
    """What can be known before anything is exported.

    Raises:
        SettingsError: not the form of a repository's id.
        ResourceError: there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not listed

    try:
        validate_repo_id(upload.repository)
    except HFValidationError as error:
        raise SettingsError(f"--push {upload.repository!r}: {first_line(error)}") from error
    if get_token() is None:
        raise ResourceError("--push: no token of the hub; run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, upload: Upload) -> str:
    """Upload every file of `folder`; the repository is made where there is none, private unless it is to be public.

    Returns:
        The repository's address, and whether it is private.

    Raises:
        SettingsError: the repository is there and public, and nobody said that it may be.
        StorageError: the hub refuses, or cannot be reached. `folder` stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the client that it uses

    api, name = HfApi(), upload.repository
    stays = f"the export is in {folder}"
    try:
        name = api.create_repo(name, private=not upload.public, exist_ok=True).repo_id
        private = bool(api.model_info(name).private)
        if not private and not upload.public:
            raise SettingsError(f"--push {name}: it is public already; give --public, or another name; {stays}")
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Exported by Loratory")
    except (HTTPError, OSError, ValueError) as error:
        raise StorageError(f"cannot upload to {name}: {first_line(error)}; {stays}") from error
    return f"{api.endpoint}/{name} ({'private' if private else 'public'})"
