"""Translation of pictures by a generator (Pix2pix, arXiv:1611.07004; CycleGAN, arXiv:1703.10593)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput

from .. import images
from ..errors import InvalidInputError, check_bool, check_int
from ..generators import Generators, check_generators
from ..hub.cards import CardText
from ..hub.saving import HubMixin
from ..models.generator_resnet import ResnetGenerator
from ..models.generator_unet import UNetGenerator
from ..models.image_translator import ImageTranslator
from .canvas import Canvas, OutputType, check_channels, check_output_type, pictures_at_once, to_output, with_channels
from .common import uncompiled


class Pix2PixPipeline(HubMixin, DiffusionPipeline):
    """Makes pictures of another kind from pictures, in one evaluation: y = G(x, z).

    The noise z is dropout, which is drawn in every call; a generator without dropout always makes the same picture.
    Several threads may call one pipeline at once.

    Args:
        generator: a `UNetGenerator` or `ResnetGenerator`, such as `examples/train_pix2pix.py` trains.
        keeps_grey: grey pictures come back grey from a generator of colours.

    Raises:
        InvalidInputError: no such generator.

    Examples:
        >>> import torch
        >>> from diffusers_restore import Pix2PixPipeline, ResnetGenerator
        >>> pipe = Pix2PixPipeline(ResnetGenerator(block_out_channels=(8, 16), num_blocks=2))
        >>> pipe(torch.zeros(1, 3, 20, 30)).images[0].size
        (30, 20)
    """

    model_cpu_offload_seq = "generator"

    def __init__(self, generator: UNetGenerator | ResnetGenerator, keeps_grey: bool = False) -> None:
        super().__init__()
        if not isinstance(uncompiled(generator), ImageTranslator):
            raise InvalidInputError(
                f"generator must be a UNetGenerator or a ResnetGenerator, got {type(generator).__name__}"
            )
        self.register_modules(generator=generator)
        self.register_to_config(keeps_grey=check_bool("keeps_grey", keeps_grey))

    @property
    def card_text(self) -> CardText:
        """What a new model card says."""
        example = (
            "from PIL import Image\nfrom diffusers_restore import Pix2PixPipeline\n\n"
            'pipe = Pix2PixPipeline.from_pretrained("{repo_id}")\n'
            'translated = pipe(Image.open("photo.png")).images[0]'
        )
        return CardText(
            "A translator of pictures by Pix2pix (arXiv:1611.07004), in one step.",
            example,
            ("image-to-image", "pix2pix"),
        )

    @torch.no_grad()
    def __call__(
        self,
        image: images.ImageInput,
        num_images_per_input: int = 1,
        generator: Generators = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Translate pictures of any size.

        A batch gives what its pictures give one by one, bit for bit on a CPU, with one generator for each. Sizes that
        the network can't halve are extended by repeating the last row and column, and cropped back.

        Args:
            image: PIL, arrays in [0, 1] (or integers), tensors (B, C, H, W) in [-1, 1], or a list of one size. Colours
                become grey for a generator of grey pictures; palettes, as of label maps, are read by their colours;
                transparency is dropped.
            num_images_per_input: pictures to make of each, next to each other in the result.
            generator: one, or one for each picture that is made, for the noise.
            output_type: "pil", "np" ((B, H, W, C) in [0, 1]), "pt" ((B, C, H, W) in [0, 1]), both clipped, or "latent"
                ((B, C, H, W) in [-1, 1], the generator's own units).
            return_dict: False returns a tuple.

        Returns:
            `ImagePipelineOutput` with `images`.

        Raises:
            InvalidInputError: an argument that cannot be used; the message says what is accepted.
        """
        check_output_type(output_type)
        copies = check_int("num_images_per_input", num_images_per_input, 1)
        network, config, device = self.generator, self.generator.config, self._execution_device
        check_channels(output_type, config.out_channels)
        given = images.to_tensor(image).to(device)
        # Small pictures are extended to what the network can work on.
        multiple = -(-network.min_size // network.size_multiple) * network.size_multiple
        size = (given.shape[2], given.shape[3])
        multiple = multiple if min(size) < network.min_size else network.size_multiple
        grey = self.config.keeps_grey and given.shape[1] == 1 and config.out_channels == 3
        canvas = Canvas(config.out_channels, 1, grey, size, multiple)
        x = canvas.extend(with_channels(given, config.in_channels)).repeat_interleave(copies, dim=0)
        check_generators(generator, len(x))
        noise = network.draw_noise(len(x), *x.shape[2:], generator)
        count = pictures_at_once(device, len(x))
        parts = list(zip(x.to(network.dtype).split(count), *(one.split(count) for one in noise), strict=True))
        made = []
        with self.progress_bar(total=len(parts)) as progress:
            for part, *noise_of_part in parts:
                made.append(network(part, noise_of_part, return_dict=False)[0].float())
                progress.update()
        translated = canvas.to_pictures(torch.cat(made))
        if not bool(translated.isfinite().all()):
            raise InvalidInputError(
                "generator gave NaN or Inf: torch.float16 overflows, so try torch.float32 or torch.bfloat16 "
                "(pipe.to(torch.float32)); if it isn't that, look for NaN in its weights"
            )
        self.maybe_free_model_hooks()
        return to_output(translated, output_type, return_dict)
