"""DDRM (arXiv:2201.11793) as modular blocks of diffusers: the steps of `DDRMPipeline`, each replaceable."""

from __future__ import annotations

from contextlib import suppress
from inspect import Parameter, signature
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.modular_pipelines.components_manager import ComponentsManager
from diffusers.modular_pipelines.modular_pipeline import (
    BlockState,
    LoopSequentialPipelineBlocks,
    ModularPipeline,
    ModularPipelineBlocks,
    PipelineState,
    SequentialPipelineBlocks,
)
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from ..errors import InvalidInputError, check_int
from ..files import write_text
from ..hub.saving import installed
from ..hub.weights import load_index
from ..registration import PACKAGE, plug_in_file
from ..schedulers.scheduling_ddrm import DDRMScheduler
from ..schedulers.zero_shot import ZeroShotScheduler
from .canvas import check_channels, check_output_type, to_output
from .chain import Watch, own_scheduler
from .common import check_evaluates
from .pipeline_ddrm import DDRMPipeline
from .zero_shot import (
    Chain,
    MeasuredCanvas,
    check_unet,
    draw_noise,
    longest,
    split_measurement,
    step_options,
    zero_shot_scheduler,
)

# The inputs of a call of the pipeline, with the defaults of `DDRMPipeline`.
_GIVEN = {
    "image": "the degraded pictures, as they were measured",
    "operator": "what was done to them, by the name of a task or as an `Operator`",
    "sigma_y": "sd of their noise in the unit of [-1, 1]",
    "num_inference_steps": "timesteps of the chain, None for the method's own number",
    "timesteps": "a decreasing list of timesteps instead",
    "eta": "share of new noise in each step, None for the method's own",
    "eta_b": "how far measured coefficients follow y, None for the method's own",
    "class_labels": "for a class-conditional network, one or one per picture",
    "generator": "one, or one for each restored picture",
    "num_images_per_input": "restored samples of each picture",
    "output_type": "'pil', 'np', 'pt' or 'latent'",
}
# What blocks pass on. A list has an item for each part of the batch that goes through the network at once: a picture on
# a CPU, where the batch size changes how sums are rounded; else there is one part.
_MADE = {
    "method": ("ZeroShotScheduler", "the scheduler, or a `DDRMScheduler` made of it, with its timesteps set"),
    "options": ("dict[str, float]", "for each step of the method"),
    "plan": ("MeasuredCanvas", "how the pictures meet the network, and the way back"),
    "measurements": ("list[Measurement]", "what was measured, as the network sees it"),
    "chains": ("list[Chain]", "of each part, with its copy of the method and what asks the network"),
    "labels": ("list[Tensor | None]", "the class labels that the network is given"),
    "generators": ("Generator | list[Generator] | None", "one, or one for each image of the network's batch"),
    "samples": ("list[Tensor]", "x_t, (b, C, H, W)"),
    "model_outputs": ("list[Tensor]", "the network's outputs, (b, C, H, W)"),
    "estimates": ("list[Tensor]", "x0_hat, before the data corrected it, (b, C, H, W)"),
    "images": ("list[PIL.Image] | ndarray | Tensor", "the restored pictures"),
}
_CALL = signature(DDRMPipeline.__call__).parameters


def _input(name: str) -> InputParam:
    if name in _MADE:
        type_hint, description = _MADE[name]
        return InputParam(name, type_hint, required=name != "generators", description=description)
    required = _CALL[name].default is Parameter.empty
    default = None if required else _CALL[name].default
    return InputParam(name, _CALL[name].annotation, default, required, _GIVEN[name])


def _inputs(*names: str) -> list[InputParam]:
    return [_input(name) for name in names]


def _outputs(*names: str) -> list[OutputParam]:
    return [OutputParam(name, *_MADE[name]) for name in names]


def _loaded(components: ModularPipeline, name: str) -> Any:
    """A component, checked: diffusers leaves None where it could not load one, and only logs why."""
    component = getattr(components, name)
    if component is None:
        raise InvalidInputError(
            f"{name} is not loaded: load_components() loads it (with subfolder='' from a repository with all files at "
            f"its root) and logs why it could not; update_components({name}=...) sets it"
        )
    return component


class DDRMSetTimestepsStep(ModularPipelineBlocks):
    """The zero-shot method of the scheduler, its timesteps and the options of its steps.

    A stock repository's scheduler stays unchanged: a `DDRMScheduler` of its noise schedule is made for the call.

    Raises:
        InvalidInputError: a scheduler or a network of another kind of process, timesteps or options that the method
            doesn't have.
    """

    description = "Chooses the timesteps, and makes the scheduler a zero-shot method if it is none."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("unet", UNet2DModel), ComponentSpec("scheduler", DDRMScheduler)]

    @property
    def inputs(self) -> list[InputParam]:
        return _inputs("num_inference_steps", "timesteps", "eta", "eta_b")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return _outputs("method", "options")

    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        unet = _loaded(components, "unet")
        check_unet(unet)
        check_evaluates("unet", unet)
        scheduler = zero_shot_scheduler(_loaded(components, "scheduler"), unet)
        method = own_scheduler(scheduler, ZeroShotScheduler)
        timesteps = block_state.timesteps
        given = block_state.num_inference_steps
        count = method.default_count if given is None and timesteps is None else given
        for one in (scheduler, method):  # that of the pipeline is left as the last call has set it
            one.set_timesteps(count, timesteps=timesteps)
        block_state.method = method
        block_state.options = step_options(method, eta=block_state.eta, eta_b=block_state.eta_b)
        self.set_block_state(state, block_state)
        return components, state


class DDRMPrepareMeasurementStep(ModularPipelineBlocks):
    """The pictures as the network takes them, on a `MeasuredCanvas`, with their labels and generators.

    Raises:
        InvalidInputError: pictures, operator and network that don't fit each other.
    """

    description = "Makes the measurement of the canvas that the network works on."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("unet", UNet2DModel)]

    @property
    def inputs(self) -> list[InputParam]:
        of_call = ("image", "operator", "sigma_y", "class_labels", "generator", "num_images_per_input", "output_type")
        return _inputs(*of_call, "method")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return _outputs("plan", "measurements", "labels", "generators")

    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        unet = _loaded(components, "unet")
        check_output_type(block_state.output_type)
        samples = check_int("num_images_per_input", block_state.num_images_per_input, 1)
        plan = MeasuredCanvas(block_state.image, block_state.operator, block_state.sigma_y, unet)
        check_channels(block_state.output_type, plan.channels)
        block_state.plan = plan
        whole = plan.measurement(samples, components._execution_device)
        block_state.measurements = split_measurement(whole, block_state.method)
        block_state.labels = plan.labels(block_state.class_labels, samples, block_state.measurements)
        block_state.generators = plan.generators(block_state.generator, samples)
        self.set_block_state(state, block_state)
        return components, state


class DDRMStartStep(ModularPipelineBlocks):
    """The first states of the chain, drawn around the measurement.

    Raises:
        InvalidInputError: sigma_y is larger than the noise level of the first timestep.
    """

    description = "Draws the first state of the chain."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("unet", UNet2DModel)]

    @property
    def inputs(self) -> list[InputParam]:
        return _inputs("method", "measurements", "labels", "generators")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return _outputs("chains", "samples")

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        parts = zip(block_state.measurements, block_state.labels, strict=True)
        block_state.chains = [Chain(components.unet, block_state.method, *part) for part in parts]
        noises = draw_noise(block_state.measurements, block_state.generators)
        block_state.samples = [chain.start(noise) for chain, noise in zip(block_state.chains, noises, strict=True)]
        self.set_block_state(state, block_state)
        return components, state


class DDRMPredictStep(ModularPipelineBlocks):
    """Within the loop: the network's output for the current states. Blocks for guidance belong after this one."""

    description = "Within the loop: evaluates the network."

    @property
    def inputs(self) -> list[InputParam]:
        return _inputs("chains", "samples")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return _outputs("samples", "model_outputs")

    @torch.no_grad()
    def __call__(
        self, components: ModularPipeline, block_state: BlockState, i: int, t: int
    ) -> tuple[ModularPipeline, BlockState]:
        parts = zip(block_state.chains, block_state.samples, strict=True)
        made = [chain.predict(x, i) for chain, x in parts]
        block_state.samples, block_state.model_outputs = (list(one) for one in zip(*made, strict=True))
        return components, block_state


class DDRMUpdateStep(ModularPipelineBlocks):
    """Within the loop: the step of the method, which corrects the network's estimates with the data."""

    description = "Within the loop: steps to the next state, which agrees with the data."

    @property
    def inputs(self) -> list[InputParam]:
        return _inputs("chains", "options", "measurements", "generators", "samples", "model_outputs")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return _outputs("samples", "model_outputs", "estimates")

    @torch.no_grad()
    def __call__(
        self, components: ModularPipeline, block_state: BlockState, i: int, t: int
    ) -> tuple[ModularPipeline, BlockState]:
        noises = draw_noise(block_state.measurements, block_state.generators)
        parts = zip(block_state.chains, block_state.model_outputs, block_state.samples, noises, strict=True)
        steps = [chain.step(output, i, x, noise, block_state.options) for chain, output, x, noise in parts]
        block_state.samples, block_state.estimates = (list(one) for one in zip(*steps, strict=True))
        # Their graphs, before those of the next step are built.
        block_state.model_outputs = [output.detach() for output in block_state.model_outputs]
        return components, block_state


class DDRMDenoiseStep(LoopSequentialPipelineBlocks):
    """The chain: its sub-blocks, one after the other, for each timestep of the method."""

    description = "Runs the chain: at each timestep the network is evaluated, and the data corrects it."
    block_classes = [DDRMPredictStep, DDRMUpdateStep]
    block_names = ["predict", "update"]

    @property
    def loop_inputs(self) -> list[InputParam]:
        return _inputs("chains")

    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        timesteps = longest(block_state.chains).timesteps
        watch = Watch()
        with self.progress_bar(total=len(timesteps)) as progress:
            for i, t in enumerate(timesteps):
                components, block_state = self.loop_step(components, block_state, i=i, t=t)
                watch.see("unet", t, torch.cat(block_state.model_outputs))
                progress.update()
        watch.see("the scheduler's step", timesteps[-1], torch.cat(block_state.samples))
        watch.check()
        self.set_block_state(state, block_state)
        return components, state


class DDRMDecodeStep(ModularPipelineBlocks):
    """The last states as pictures: cropped, grey where the measured pictures were, of the requested type."""

    description = "Makes pictures of the last state."

    @property
    def inputs(self) -> list[InputParam]:
        return _inputs("plan", "samples", "output_type")

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return _outputs("images")

    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        restored = block_state.plan.to_pictures(torch.cat(block_state.samples))
        (block_state.images,) = to_output(restored, block_state.output_type, return_dict=False)
        self.set_block_state(state, block_state)
        return components, state


class DDRMBlocks(SequentialPipelineBlocks):
    """`DDRMPipeline` in blocks: y = A x + sigma_y z, restored by a diffusion prior of x (arXiv:2201.11793).

    On a CPU its results are those of `DDRMPipeline` with the same generator, bit for bit.

    Examples:
        >>> from PIL import Image
        >>> from diffusers_restore import DEFAULT_PRIOR, DDRMBlocks
        >>> pipe = DDRMBlocks().init_pipeline(DEFAULT_PRIOR)
        >>> pipe.load_components()
        >>> restored = pipe(image=Image.new("RGB", (16, 16), "green"), operator="sr4", output="images")[0]
        >>> restored.size
        (64, 64)
    """

    description = "Zero-shot restoration of linearly degraded pictures by DDRM (arXiv:2201.11793)."
    block_classes = [
        DDRMSetTimestepsStep,
        DDRMPrepareMeasurementStep,
        DDRMStartStep,
        DDRMDenoiseStep,
        DDRMDecodeStep,
    ]
    block_names = ["set_timesteps", "prepare_measurement", "start", "denoise", "decode"]

    @property
    def outputs(self) -> list[OutputParam]:
        return _outputs("images")

    def init_pipeline(
        self,
        pretrained_model_name_or_path: str | PathLike[str] | None = None,
        components_manager: ComponentsManager | None = None,
        collection: str | None = None,
    ) -> ModularPipeline:
        """As `ModularPipelineBlocks.init_pipeline`; also loads repositories with all files at their root.

        Raises:
            InvalidInputError: the network works on the latents of another component of the repository.
        """
        source = None if pretrained_model_name_or_path is None else fspath(pretrained_model_name_or_path)
        if source is not None:
            with suppress(OSError):  # a modular repository has no model_index.json
                load_index(DDRMPipeline, source)
        pipe = super().init_pipeline(source, components_manager, collection)  # components can't load from a Path
        for name, spec in pipe._component_specs.items():
            if spec.subfolder == name and not _holds(spec, name) and _holds(spec, ""):
                spec.subfolder = ""
                pipe.register_to_config(**{name: (None, None, pipe._component_spec_to_dict(spec))})
        return pipe

    def save_config(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """As `ConfigMixin.save_config`, with the file that imports the class from the installed package."""
        module, name = type(self).__module__, type(self).__name__
        if installed(module):
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            source = PACKAGE if module.startswith(f"{PACKAGE}.") else module
            file = f"{module.rpartition('.')[2]}.py"  # diffusers' name for it in modular_config.json
            write_text(folder / file, plug_in_file(source, name))
        super().save_config(save_directory, push_to_hub, **kwargs)


def _holds(spec: ComponentSpec, subfolder: str) -> bool:
    """Whether the repository has the component's configuration in this folder."""
    repository, file = str(spec.pretrained_model_name_or_path), Path(subfolder, spec.type_hint.config_name)
    if Path(repository).is_dir():
        return Path(repository, file).is_file()
    try:
        hf_hub_download(repository, file.as_posix())
    except (HfHubHTTPError, OSError):  # no such file, or unreachable
        return False
    return True
