"""Weights on the Hugging Face hub: one safetensors file and a card per repository; nothing else is fetched.

A name is ``hf-hub:owner/name``, or ``hf-hub:owner/name@revision``. The file must have the sha256 that the caller gives, or the one
that the card of that revision names: a card protects against damage, a sha256 of one's own (or a commit as the revision) against
change. ``HF_ENDPOINT``, ``HF_HUB_CACHE`` and ``HF_HUB_OFFLINE`` are read at every call.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InstaAugError, reason
from .held_out_table import show_table

PREFIX = "hf-hub:"
FILE = "learned_augment.safetensors"
KEY = "learned_augment_sha256"  # in the card's metadata

LOADING = """```python
import instaaug_transforms as ia

aug = ia.LearnedAugment.from_pretrained(
    "{prefix}{repo}", sha256="{sha256}"{classifier}
)
```"""


def download(name: str, sha256: str | None = None) -> tuple[Path, str]:
    """The weights file of ``hf-hub:owner/name[@revision]``, in the hub's cache, and the sha256 it must have.

    Raises:
        InstaAugError: no such repository, revision or file, no way to it, or no sha256 in the call nor in the card.
    """
    hub = _hub()
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    where = {"endpoint": os.environ.get("HF_ENDPOINT"), "cache_dir": os.environ.get("HF_HUB_CACHE")}
    where |= {"revision": revision or None, "local_files_only": offline}
    try:
        path = Path(hub.hf_hub_download(repo, FILE, **where))
        if sha256 is None:
            card = Path(hub.hf_hub_download(repo, "README.md", **where)).read_text(encoding="utf-8")
            sha256 = hub.ModelCard(card, ignore_metadata_errors=True).data.to_dict().get(KEY)
    except Exception as error:  # of the hub, of the network, of names
        raise InstaAugError(f"weights: {name!r} cannot be fetched: {type(error).__name__}: {reason(error)}") from error
    if not isinstance(sha256, str):
        raise InstaAugError(
            f"weights: neither you nor the card of {name!r} say which sha256 {FILE} must have; if you trust it as it is, "
            f"give sha256={hashlib.sha256(path.read_bytes()).hexdigest()!r}"
        )
    return path, sha256


def upload(file: bytes, card: str, repo: str, message: str, private: bool | None) -> str:
    """Put file and card into ``repo``, made where it is not there yet; its name with the commit, as `download` takes it.

    Raises:
        InstaAugError: no permission, or no way to the hub.
    """
    api = _hub().HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_bytes(file)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        try:
            repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except Exception as error:  # of the hub, of the network, of names
            raise InstaAugError(f"push_to_hub: {repo!r}: {type(error).__name__}: {reason(error)}") from error
    return f"{PREFIX}{repo}@{commit.oid}"


def make_card(config: Mapping[str, Any], sha256: str, repo: str, license: str | None, text: str) -> str:
    """The model card: what it is, how to load it, and what its fit found on held-out images.

    Args:
        config: of the weights file.
        sha256: of the file.
        repo: ``owner/name``.
        license: an identifier of the hub, ``"apache-2.0"`` say.
        text: of your own, below the summary.
    """
    families = ", ".join(entry["name"] for entry in config["families"])
    reads = "classifier_sha256" in config["predictor"]
    data = _hub().ModelCardData(
        license=license,
        library_name="instaaug-transforms",
        tags=["augmentation", "test-time-augmentation"],
        **{KEY: sha256},
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {repo.rpartition('/')[2]}"]
    parts += [f"A transform whose strength is learned per image, over {families}: weights of `LearnedAugment`.", text]
    loading = LOADING.format(
        prefix=PREFIX, repo=repo, sha256=sha256, classifier=", classifier=classifier" if reads else ""
    )
    parts.append(loading + ("\n\nIt reads the features of the classifier it was fitted with." if reads else ""))
    found = config.get("recommended") or {}
    if "table" in found:
        parts += [f"## On {found['n']} held-out images, against {found['against']}", show_table(found["table"])]
    if "recommended" in found:
        setting = ", ".join(f"{name} = {value}" for name, value in found["recommended"].items())
        parts.append(f"Recommended: {setting}; `TTAModel.recommended(classifier, aug)` uses it.")
    notes = {name: value for name, value in config.get("notes", {}).items() if name != "held_out"}
    if notes:
        parts.append("\n".join(f"- {name}: {value}" for name, value in notes.items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InstaAugError("weights: pip install 'instaaug-transforms[hub]' for the Hugging Face hub") from error
    return huggingface_hub
