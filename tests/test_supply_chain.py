"""The bill of materials and the promises of SECURITY.md that name something."""

import re
import subprocess

from tests import ROOT

SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_limit_that_security_names_is_the_codes() -> None:
    from dream_o.dream_render import connections, form_api, form_body
    from dream_o.images import opening
    from dream_o.server import downloads, worker_files
    from dream_o.service import encoded_inputs

    for sentence in (
        f"at most {opening.MAX_PIXELS // 1_000_000} megapixels",
        f"at most {opening.MAX_SCANS} scans",
        f"at most {downloads.MAX_DOWNLOAD_BYTES // 1_000_000} MB",
        f"at most {downloads.DOWNLOAD_SECONDS:g} s to arrive",
        f"than {worker_files.MAX_FILE_BYTES // 2**20} MiB",
        f"at most {encoded_inputs.REFERENCE_BYTES // 2**20} MiB",
        f"at most {form_body.MAX_BODY_BYTES:,} bytes",
        f"at most {form_body.BODY_SECONDS:g} s",
        f"within {connections.HEAD_SECONDS:g} s",
        f"at most {form_api.MAX_CONNECTIONS} connections",
        f"{connections.MAX_OPEN} are open",
    ):
        assert sentence in " ".join(SECURITY.split()), sentence


def test_what_security_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)", SECURITY):
        assert (ROOT / target).exists(), target


def test_the_bill_of_materials_is_made_from_the_lock_with_hashes() -> None:
    script = (ROOT / "script" / "sbom").read_text()
    assert "requirements.lock" in script
    assert "--spec-version 1.6" in script
    subprocess.run(["bash", "-n", str(ROOT / "script" / "sbom")], check=True)
