"""`python tests/app_page.py` takes the picture of the page that the README and the docs show."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import browser
from PIL import Image

TARGET = Path(__file__).parents[1] / "docs" / "images" / "app.jpg"


def main() -> None:
    """The scratched example, what was found, and what was made of it."""
    command = [sys.executable, "-m", "diffusers_restore", "app", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served, browser.open_browser() as chromium:
        assert served.stdout is not None
        address = re.search(r"http://\S+", served.stdout.readline())
        assert address
        page = chromium.new_page(viewport={"width": 1200, "height": 1000}, device_scale_factor=1.5)
        page.set_default_timeout(120_000)
        page.goto(address[0])
        page.get_by_role("button", name="a scratched one").click()
        said = "t => document.querySelector('#status')?.innerText.includes(t)"
        page.wait_for_function(said, arg="pixels")
        page.get_by_role("button", name="Show what is taken for scratches").click()
        page.wait_for_function(said, arg="Erase what is no scratch")
        page.wait_for_timeout(1500)
        page.eval_on_selector("#restore", "button => button.click()")
        page.wait_for_function(said, arg="Done")
        page.wait_for_timeout(1500)
        shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        served.send_signal(signal.SIGTERM)
    shot.save(TARGET, quality=85, optimize=True)
    print(f"wrote {TARGET} ({TARGET.stat().st_size / 1000:.0f} KB)")


if __name__ == "__main__":
    main()
