"""Upload what `pack` wrote to Hugging Face, as espnet_model_zoo downloads it.

The token is that of `hf auth login`, or HF_TOKEN. HF_ENDPOINT names another server.
"""

import tempfile
import zipfile
from pathlib import Path
from typing import Optional, Sequence

from espnet_ctckd.bin import parser, run
from espnet_ctckd.choices import InputError


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Upload it."""
    p = parser(__doc__)
    p.add_argument("--packed", required=True, help="zip of `pack`")
    p.add_argument("--repo", required=True, help="where to, e.g. me/student")
    p.add_argument("--private", action="store_true", help="if it is a new one")
    args = p.parse_args(cmd)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise InputError(
            "huggingface_hub is missing: pip install 'espnet_ctckd[hf]'"
        ) from None
    if not zipfile.is_zipfile(args.packed):
        raise InputError(f"{args.packed} is not a zip of `espnet_ctckd.bin.pack`")
    with tempfile.TemporaryDirectory() as made, zipfile.ZipFile(args.packed) as packed:
        if "meta.yaml" not in packed.namelist():
            raise InputError(
                f"{args.packed} has no meta.yaml: pack the model with "
                "`espnet_ctckd.bin.pack`"
            )
        packed.extractall(made)  # names that lead outside are mended by zipfile
        try:
            api = HfApi()
            api.create_repo(args.repo, private=args.private, exist_ok=True)
            found = api.upload_folder(
                repo_id=args.repo, folder_path=made, commit_message="Add the model"
            )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise InputError(
                f"{Path(args.packed).name} cannot be uploaded to {args.repo}: {error}. "
                "Check the name, the token (`hf auth login`) and the network"
            ) from None
    print(f"uploaded: {found.commit_url}")


if __name__ == "__main__":
    run(main)
