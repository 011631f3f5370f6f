"""ResidualUNet2DModel of the installed package diffusers-restore."""

for leftover in [name for name in globals() if not name.startswith("__")]:
    del globals()[leftover]  # diffusers runs all local files of one name in one module

try:
    from diffusers_restore import ResidualUNet2DModel
except ImportError as error:
    message = "ResidualUNet2DModel needs the package diffusers-restore: pip install --upgrade diffusers-restore"
    raise ImportError(message) from error

__all__ = ["ResidualUNet2DModel"]
