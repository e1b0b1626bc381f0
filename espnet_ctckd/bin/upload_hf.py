"""Upload a zip of `pack` to Hugging Face, in the layout of espnet_model_zoo.

The token is from `hf auth login` or HF_TOKEN. HF_ENDPOINT sets another server.
"""

import contextlib
import importlib
import tempfile
import zipfile
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Type

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.choices import InputError


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Upload a packed model."""
    p = parser(__doc__)
    p.add_argument("--packed", required=True, help="zip of `pack`")
    p.add_argument("--repo", required=True, help="repository, e.g. me/student")
    p.add_argument("--private", action="store_true", help="make a new one private")
    args = p.parse_args(cmd)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise InputError(
            "huggingface_hub is missing: pip install 'espnet_ctckd[hf]'"
        ) from None
    if not Path(args.packed).is_file():
        raise InputError(f"there is no file {args.packed}")
    if not zipfile.is_zipfile(args.packed):
        raise InputError(f"{args.packed} is not a zip of `espnet_ctckd.bin.pack`")
    refused: Tuple[Type[BaseException], ...]
    refused = (HfHubHTTPError, HFValidationError, *_network_errors())
    with tempfile.TemporaryDirectory() as made, zipfile.ZipFile(args.packed) as packed:
        if "meta.yaml" not in packed.namelist():
            raise InputError(
                f"{args.packed} has no meta.yaml: pack the model with "
                "`espnet_ctckd.bin.pack`"
            )
        try:
            packed.extractall(made)  # names that lead outside are mended by zipfile
        except zipfile.BadZipFile as error:
            raise InputError(
                f"{args.packed} is damaged ({error}): pack again"
            ) from None
        try:
            api = HfApi()
            api.create_repo(args.repo, private=args.private, exist_ok=True)
            found = api.upload_folder(
                repo_id=args.repo, folder_path=made, commit_message="Add the model"
            )
        except refused as error:
            raise InputError(
                f"{Path(args.packed).name} cannot be uploaded to {args.repo}: {error}. "
                "Check the name, the token (`hf auth login`) and the network"
            ) from None
    print(f"uploaded: {found.commit_url}")


def _network_errors() -> Tuple[Type[BaseException], ...]:
    """Return the network errors of the installed version of the hub's client."""
    found: List[Type[BaseException]] = [OSError]
    for name in ("httpx", "httpx2"):
        with contextlib.suppress(ImportError):
            library = importlib.import_module(name)
            found.append(getattr(library, "TransportError", OSError))
    return tuple(found)


if __name__ == "__main__":
    run(main)
