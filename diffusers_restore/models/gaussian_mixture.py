"""A mixture of Gaussians over thumbnails, from which Cold Diffusion draws the starts of new pictures."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, Self

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional

from ..configuration import PlainConfigMixin
from ..degradations.base import check_choice, draw_each
from ..errors import InvalidInputError, check_int, check_real
from ..generators import Generators
from ..tensors import check_floats, is_dense


class GaussianMixturePrior(ModelMixin, PlainConfigMixin):
    """x_T = spread(m) + noise_std z, m ~ sum_k w_k N(mu_k, L_k L_k^T), z ~ N(0, I) for each pixel.

    m is a thumbnail of `height` x `width` pixels; 1 x 1 is the mean of each channel, which is all that the largest blur
    leaves. The noise breaks the symmetry of a flat start (arXiv:2208.09392, section 5).

    Args:
        channels, height, width: of m.
        components: of the mixture.
        upsample: m is spread by "nearest" neighbours, or "bilinear".
        noise_std: 0 leaves a deterministic picture for each m.

    Attributes:
        weights: w, (K,).
        means: mu, (K, channels height width).
        scale_tril: L, lower triangular, (K, channels height width, channels height width).

    Raises:
        InvalidInputError: an argument out of range.
    """

    weights: Tensor
    means: Tensor
    scale_tril: Tensor

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        height: int = 1,
        width: int = 1,
        components: int = 1,
        upsample: Literal["nearest", "bilinear"] = "nearest",
        noise_std: float = 0.002,
    ) -> None:
        super().__init__()
        sizes = [
            check_int(name, value, 1) for name, value in (("channels", channels), ("height", height), ("width", width))
        ]
        check_int("components", components, 1)
        check_choice("upsample", upsample, ("nearest", "bilinear"))
        check_real("noise_std", noise_std, 0)
        dimension = sizes[0] * sizes[1] * sizes[2]
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, dimension))
        self.register_buffer("scale_tril", torch.eye(dimension).repeat(components, 1, 1))

    @classmethod
    def fit(cls, thumbnails: Tensor, components: int, *, seed: int = 0, **config: Any) -> Self:
        """Fit a mixture with full covariances by expectation maximisation (scikit-learn).

        Args:
            thumbnails: (N, C, h, w), such as `thumbnails(D(x, T), (h, w))` of the training pictures.
            components: of the mixture.
            seed: of the start of the search.
            config: other arguments of the class.

        Raises:
            InvalidInputError: no such tensor, too few thumbnails, or numbers that aren't finite.
            ImportError: scikit-learn isn't installed.
        """
        try:
            mixture = import_module("sklearn.mixture").GaussianMixture
        except ImportError as error:
            raise ImportError("fitting a prior needs scikit-learn: pip install 'diffusers-restore[train]'") from error
        if not is_dense(thumbnails) or thumbnails.ndim != 4 or not thumbnails.is_floating_point():
            what = (
                f"{thumbnails.dtype} {tuple(thumbnails.shape)}" if isinstance(thumbnails, Tensor) else repr(thumbnails)
            )
            raise InvalidInputError(f"thumbnails must be a float tensor (N, C, h, w), got {what:.99}")
        if not bool(thumbnails.isfinite().all()):
            raise InvalidInputError("thumbnails must be finite, got NaN or Inf")
        check_int("components", components, 1)
        count, channels, height, width = thumbnails.shape
        dimension = channels * height * width
        if count <= max(components, dimension):
            raise InvalidInputError(
                f"{components} components of {dimension} numbers need more than {max(components, dimension)} "
                f"thumbnails, got {count}"
            )
        rows = thumbnails.reshape(count, -1).double().cpu().numpy()
        found = mixture(components, random_state=seed).fit(rows)
        prior = cls(channels=channels, height=height, width=width, components=components, **config)
        prior.weights.copy_(torch.from_numpy(found.weights_))
        prior.means.copy_(torch.from_numpy(found.means_))
        prior.scale_tril.copy_(torch.linalg.cholesky(torch.from_numpy(found.covariances_)))
        return prior

    @torch.no_grad()
    def sample(self, batch_size: int, height: int, width: int, generator: Generators = None) -> Tensor:
        """x_T of `batch_size` new pictures, (B, C, height, width), float32.

        Args:
            batch_size: B.
            height, width: of the pictures.
            generator: one, or a list of one for each picture.

        Raises:
            InvalidInputError: an argument out of range, or no such generator.
        """
        for name, value in (("batch_size", batch_size), ("height", height), ("width", width)):
            check_int(name, value, 1)
        shape = (self.config.channels, self.config.height, self.config.width)
        weights, means, scale_tril = (x.float() for x in (self.weights, self.means, self.scale_tril))

        def draw(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
            chosen = torch.multinomial(weights.to(device), count, replacement=True, generator=generator)
            z = torch.randn((count, means.shape[1]), generator=generator, device=device)
            m = means.to(device)[chosen] + (scale_tril.to(device)[chosen] @ z[:, :, None])[:, :, 0]
            thumbnails = m.reshape(count, *shape)
            x = functional.interpolate(thumbnails, size=(height, width), mode=self.config.upsample)
            noise = torch.randn(x.shape, generator=generator, device=device)
            return x + self.config.noise_std * noise

        return draw_each(draw, batch_size, self.weights.device, generator)


def thumbnails(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Means of the blocks of pictures (B, C, H, W), (B, C, *size).

    Raises:
        InvalidInputError: no float pictures, or a size that isn't two whole numbers.
    """
    check_floats("pictures", pictures)
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise InvalidInputError(f"size must be (height, width), got {size!r}")
    size = (check_int("height", size[0], 1), check_int("width", size[1], 1))
    return functional.interpolate(pictures, size=size, mode="area")
