"""The page in the browser: `diffusers-restore app`.

It asks `restoring` for everything that it does, and adds nothing to what that can do. Needs the extra `app`, gradio.
"""

from __future__ import annotations

from .server import serve

__all__ = ["serve"]
