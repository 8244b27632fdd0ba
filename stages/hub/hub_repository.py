"""Models on the Hugging Face hub, by id: an export is pushed, and one that somebody pushed is fetched. No torch here."""

import re
from pathlib import Path

from conf.errors import UsageError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LOGIN = "An account with write access is needed: type   hf auth login   or set HF_TOKEN"


def is_hub_id(name: str) -> bool:
    """owner/name, where no folder of that owner's name is here: a misspelt path is no id."""
    return HUB_ID.fullmatch(name) is not None and not Path(name.partition("/")[0]).exists()


def fetch(name: str, revision: str | None = None, what: str = "model") -> Path:
    """The folder of the hub's cache with a whole repository. Raises UsageError where the hub does not give it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision))
    except Exception as error:  # the hub's and the network's errors share no base
        raise UsageError(f"no {what} at {name!r}: {_first_line(error)}") from error


def push(folder: Path, name: str, private: bool) -> str:
    """Makes the repository if there is none, and commits the folder to it. Returns the commit's address. Raises
    UsageError where the hub refuses it; what was uploaded before is not committed.
    """
    from huggingface_hub import HfApi

    if not HUB_ID.fullmatch(name):
        raise UsageError(f"--push {name}: type OWNER/NAME, as the hub calls a repository")
    api = HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message="stage export")
    except Exception as error:
        raise UsageError(f"--push {name}: the hub refused it ({_first_line(error)}). {LOGIN}") from error
    return str(commit.commit_url)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
