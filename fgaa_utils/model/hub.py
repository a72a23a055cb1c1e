"""Files of the model hub, where there is one: what is wanted is said when it cannot be had."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError


@contextmanager
def hub_access(repository: str, files: str, key: str) -> Iterator[None]:
    """Around code that reads `files` of a repository because of the key `key` of params.yaml.

    Raises: OSError naming all three and the ways out, if the hub does not answer or refuses.
    """
    try:
        yield
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OSError(
            f"{key} wants {files} of the hub repository {repository}, which cannot be had ({reason.strip()[:200]}). "
            "If the hub refuses, accept the repository's terms and log in (`hf auth login`); if it is not asked, set "
            f"HF_HUB_OFFLINE=0; or give {key} the path of a local copy"
        ) from error


def hub_or_local(source: str, *, repo_type: str, key: str) -> Path:
    """The file that `source` names: a path, or `repository:file`, fetched once and kept in the hub's cache.

    Raises: OSError for a file that cannot be had.
    """
    if Path(source).is_file():
        return Path(source)
    repository, _, file = source.partition(":")
    if not file:
        raise FileNotFoundError(f"{key} is {source!r}: there is no such file; give a path, or repository:file")
    with hub_access(repository, file, key):
        return Path(hf_hub_download(repository, file, repo_type=repo_type))
