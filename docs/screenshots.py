"""Writes the pictures of the pages, from the report of a run, with Chromium.

python docs/screenshots.py runs/digits
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "images"
SIZE = (1180, 940)
COLORS = 128  # of a picture: a report has few


def shoot(page: Path, picture: Path) -> None:
    """Write what Chromium shows of the top of ``page``, as a PNG of few colours."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is not there; it takes the pictures")
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw.png"
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={scratch}/profile", f"--screenshot={raw}",
                f"--window-size={SIZE[0]},{SIZE[1]}", page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )  # fmt: skip
        picture.parent.mkdir(exist_ok=True)
        Image.open(raw).convert("RGB").quantize(COLORS).save(picture, optimize=True)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    shoot(parser.parse_args().run / "report.html", FOLDER / "report.png")


if __name__ == "__main__":
    main()
