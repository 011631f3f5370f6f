"""Serves the page, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from ..errors import InvalidInputError

_LARGEST = 500 * 2**20
"""Bytes of an uploaded file."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_pixels: int | None = None,
    browser: bool = False,
    ready: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM; then uploads and results are removed.

    Args:
        host: an address of this machine. From one that others can reach, visitors can't choose the model, since its
            name may be any folder of this machine.
        port: None is the first free one from 7860 on.
        model: what "a model of mine" is at first: a repository of the Hub or a folder.
        device, dtype, max_pixels: as of `restoring.load`.
        browser: open the page in one.
        ready: is called with the address, once it can be opened.

    Raises:
        InvalidInputError: gradio isn't installed, or the address can't be used.
        ArgumentError: a device that this machine doesn't have, another dtype, or no such model.
    """
    try:
        # Before gradio is imported: it asks other machines for nothing.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import gradio
    except ImportError as error:
        raise InvalidInputError("the page needs gradio: pip install 'diffusers-restore[app]'") from error
    from ..restoring.kinds import RDDM
    from ..restoring.loading import find_device, find_dtype
    from .page import CSS, THEME, build
    from .working import Workshop

    find_dtype(dtype, find_device(device), RDDM)
    workshop = Workshop(device, dtype, max_pixels)
    os.environ["GRADIO_TEMP_DIR"] = str(workshop.uploads)  # before a part of the page is made
    try:
        page = build(workshop, model, fixed=not is_loopback(host))
    except BaseException:
        workshop.close()
        raise
    page.queue(default_concurrency_limit=None, api_open=False, max_size=100)
    stopped = threading.Event()
    before: Any = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            max_file_size=_LARGEST,
            footer_links=[],
            enable_monitoring=False,
            theme=THEME,
            css=CSS,
        )
        ready(address)
        stopped.wait()
    except OSError as error:
        why = str(error).partition(" You can specify")[0]  # what only gradio's own users can
        raise InvalidInputError(f"cannot listen on {host}, port {port or 'from 7860 on'}: {why}") from error
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        page.close(verbose=False)
        gradio.close_all(verbose=False)
        workshop.close()
