"""The page: what it shows, and what happens when something on it is touched."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .. import images
from ..errors import InvalidInputError
from ..registries import METHODS, TASKS
from ..registry import PlugInError
from ..restoring import find_kind
from ..restoring.kinds import COLD, FILE_ARGUMENTS, MAX_SEED, PRIOR
from ..restoring.packed import TAR, Packed, load
from ..restoring.zero_shot import AUTO
from . import asking, equivalents, views
from .asking import Argument, Asked, asked
from .examples import EXAMPLES, make
from .saying import report, status, why_not, without_folder
from .working import LONGEST, Ended, Visit, Working, Workshop, message

_GOALS = [
    ("Make it better: grain, blur, JPEG artefacts", asking.BETTER),
    ("An old photograph: scratches, folds and dust, too", asking.OLD),
    ("I know what was done to it", asking.TASK),
    ("With a model of my own", asking.MODEL),
]
_PAINT = (220, 30, 60)
_MOST_TILES = 60

_CLEANING = (600, LONGEST)
"""How often old files are looked for, and how old they are then, in seconds: of pages that were never closed."""

THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: 1400px !important; margin: auto; overflow: visible !important; }
.status { padding: .6em .8em; border-radius: 8px; min-height: 1.4em; background: var(--background-fill-secondary); }
.status.failed { background: #fde8e8; color: #8a1c1c; }
.dark .status.failed { background: #4a1d1d; color: #ffd7d7; }
.status progress { width: 100%; height: .6em; }
.status ul { margin: .3em 0 0 1.2em; }
.actions { position: sticky; bottom: 0; z-index: 1000; padding: .5em 0; background: var(--body-background-fill); }
.live img { width: 100%; max-height: 70vh; object-fit: contain; image-rendering: auto; border-radius: 8px; }
.live figcaption { opacity: .7; font-size: .9em; }
"""

_Update = dict[Any, Any]


def build(workshop: Workshop, model: str | None = None, *, fixed: bool = False) -> gr.Blocks:
    """The page of a workshop.

    Args:
        workshop: does the work.
        model: that is offered at first.
        fixed: visitors can't choose another one.

    Raises:
        ModelError: there is no such model.
    """
    return Page(workshop, model, fixed=fixed).blocks


class Page:
    """What the page consists of; `named` are the controls whose values `asked` reads."""

    def __init__(self, workshop: Workshop, model: str | None, *, fixed: bool) -> None:
        self.workshop, self.model, self.fixed = workshop, model, fixed
        self.offers_prior = model is not None and find_kind(model) is PRIOR
        self.named: dict[str, Any] = {}
        self.of_task: dict[str, gr.Group] = {}
        self.of_method: dict[str, gr.Group] = {}
        with gr.Blocks(title="Restore photographs", delete_cache=_CLEANING, analytics_enabled=False) as self.blocks:
            gr.Markdown(
                "# Restore photographs\n\n"
                "Pictures stay on the machine that runs this page, and are removed when you leave it."
            )
            with gr.Row():
                with gr.Column(scale=2, min_width=340):
                    self._lay_out_input()
                    self._lay_out_task()
                    self._lay_out_mask()
                    self._lay_out_more()
                    with gr.Column(elem_classes="actions"):  # in view, wherever the page is
                        self.status = gr.HTML(status("Drop a photograph to begin."), elem_id="status")
                        with gr.Row():
                            self.restore = gr.Button("Restore", variant="primary", elem_id="restore")
                            self.cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel")
                with gr.Column(scale=3, min_width=340):
                    self._lay_out_results()
            self._connect()

    def _lay_out_input(self) -> None:
        self.files = gr.File(label="Photographs", file_count="multiple", elem_id="files", height=150)
        gr.Markdown("Nothing at hand? Try")
        with gr.Row():
            self.examples = [(gr.Button(name, size="sm", min_width=80), name) for name in EXAMPLES]
        self.preview = gr.Image(
            label="What you dropped", interactive=False, height=260, visible=False, buttons=["fullscreen"]
        )
        of_model = not self.fixed or (self.model is not None and not self.offers_prior)
        goals = [goal for goal in _GOALS if goal[1] != asking.MODEL or of_model]
        self.named["goal"] = gr.Radio(goals, value=asking.BETTER, label="What to do", elem_id="goal")

    def _lay_out_task(self) -> None:
        with gr.Group(visible=False) as self.task_group:
            tasks = {name: _summary(name) for name in sorted(TASKS, key=_is_for_trials)}
            self.named["task"] = gr.Dropdown(
                [(f"{name}: {summary}", name) for name, summary in tasks.items() if summary],
                value="denoise",
                label=asking.LABELS["task"],
                elem_id="task",
            )
            for task, arguments in asking.arguments_of_tasks().items():
                if arguments:
                    with gr.Row(visible=False) as self.of_task[task]:
                        self._lay_out_arguments(arguments)
            self.kernel = gr.File(label="Blur kernel: a grey picture, or an .npy file", visible=False, height=110)
            self.named["noise"] = gr.Radio(
                [
                    ("none but that of the file's format", asking.ROUNDING),
                    ("unknown: estimate it", asking.ESTIMATED),
                    ("this much:", asking.GIVEN),
                ],
                value=asking.ESTIMATED,
                label=asking.LABELS["sigma_y"],
                elem_id="noise",
            )
            self.named["grey_levels"] = gr.Slider(
                0, 100, value=25, step=0.5, label="Standard deviation of the noise, of 255 grey levels", visible=False
            )
            methods = [("the one that suits the task", AUTO)]
            methods += [
                (f"{name} ({METHODS[name].default_steps} steps)", name) for name in asking.arguments_of_methods()
            ]
            self.named["method"] = gr.Dropdown(methods, value=AUTO, label=asking.LABELS["method"], elem_id="method")
            for method, arguments in asking.arguments_of_methods().items():
                if arguments:
                    with gr.Row(visible=False) as self.of_method[method]:
                        self._lay_out_arguments(arguments)
        self.named["model"] = gr.Textbox(
            self.model or "",
            label=asking.LABELS["model"],
            placeholder="empty: what is bundled; or a repository of the Hugging Face Hub, or a folder",
            visible=False,
            interactive=not self.fixed,
            elem_id="model",
        )
        with gr.Row(visible=False) as self.model_group:
            self.named["start"] = gr.Number(
                0, label=asking.LABELS["start"], info="of Cold Diffusion; 0: the largest", precision=0, minimum=0
            )
            self.named["direct"] = gr.Checkbox(False, label=asking.LABELS["direct"], info="of Cold Diffusion")

    def _lay_out_arguments(self, arguments: Sequence[Argument]) -> None:
        for one in arguments:
            self.named[one.key] = _control(one)

    def _lay_out_mask(self) -> None:
        with gr.Column(visible=False) as self.mask_group:
            self.named["faded"] = gr.Checkbox(False, label=asking.LABELS["faded"], visible=False, elem_id="faded")
            self.mask_help = gr.Markdown("Paint over what is missing or damaged.")
            self.editor = gr.ImageEditor(
                type="pil",
                label="Mask",
                sources=(),
                transforms=(),
                layers=gr.LayerOptions(allow_additional_layers=False),
                brush=gr.Brush(colors=[f"rgb{_PAINT}"], color_mode="fixed", default_size=32),
                eraser=gr.Eraser(default_size=32),
                buttons=["fullscreen"],
                height=420,
                elem_id="editor",
            )
            self.find = gr.Button("Show what is taken for scratches, to correct it", size="sm", visible=False)
            with gr.Accordion("A mask in a file", open=False, elem_id="mask"):
                self.mask_file = gr.File(label="White is known, black is missing; what is painted comes first")

    def _lay_out_more(self) -> None:
        with gr.Accordion("More", open=False, elem_id="more"):
            self.named["strength"] = gr.Slider(
                0, 1, value=1, step=0.05, label=asking.LABELS["strength"], info="how much of the change is made"
            )
            with gr.Row(visible=False) as self.seed_group:
                self.named["seed"] = gr.Number(
                    0, label=asking.LABELS["seed"], precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed"
                )
            with gr.Row(visible=False) as self.sampling_group:
                self.named["steps"] = gr.Number(
                    0, label=asking.LABELS["steps"], info="0: the usual number", precision=0, minimum=0, elem_id="steps"
                )
                self.named["samples"] = gr.Number(
                    1, label=asking.LABELS["samples"], precision=0, minimum=1, maximum=64, elem_id="samples"
                )
                self.named["average"] = gr.Checkbox(
                    False, label=asking.LABELS["average"], info="one picture: smoother, nearer on average"
                )

    def _lay_out_results(self) -> None:
        self.live = gr.HTML("", elem_classes="live", elem_id="live")
        self.slider = gr.ImageSlider(
            label="Before and after: drag the line; the wheel zooms",
            visible=False,
            interactive=False,
            max_height=720,
            format="png",
            buttons=["fullscreen"],
            elem_id="slider",
        )
        self.gallery = gr.Gallery(
            label="All results: touch one to compare it",
            visible=False,
            columns=4,
            height="auto",
            allow_preview=False,
            buttons=[],
            elem_id="gallery",
        )
        self.uncertainty = gr.Image(visible=False, interactive=False, buttons=["fullscreen"], elem_id="uncertainty")
        self.downloads = gr.File(label="Download", visible=False, interactive=False, elem_id="downloads")
        with gr.Accordion("The same on the command line and in Python", open=True, visible=False) as self.same:
            plain: dict[str, Any] = {"interactive": False, "lines": 1, "wrap_lines": True, "show_line_numbers": False}
            self.command = gr.Code(language="shell", label="Command line", elem_id="command", **plain)
            self.python = gr.Code(language="python", label="Python", elem_id="python", **plain)
        self.results = gr.State([])

    def _connect(self) -> None:
        # Else progress is told to all outputs at every step, and the editor reads its whole canvas each time.
        quick: dict[str, Any] = {
            "show_progress": "hidden",
            "show_progress_on": self.status,
            "api_visibility": "private",
        }
        shown = [self.status, self.slider, self.gallery, self.uncertainty, self.downloads, self.same, self.live]
        self.files.change(self._look, [self.files], [*shown, self.preview, self.editor], **quick)
        for button, name in self.examples:
            made = [self.files, self.named["goal"], self.named["task"], self.named["noise"]]
            button.click(lambda name=name: self._example(name), None, made, **quick)
        groups = [*self.of_task.values(), *self.of_method.values()]
        parts = [self.task_group, self.named["model"], self.model_group, self.mask_group, self.mask_help, self.find]
        parts += [self.seed_group, self.sampling_group, self.kernel, self.preview, *groups]
        parts += [self.named["grey_levels"], self.named["faded"]]
        chosen = [self.named[name] for name in ("goal", "task", "method", "noise")]
        arranged = [*chosen, self.named["model"], self.files]
        for one in (*chosen, self.files):
            one.change(self._arrange, arranged, parts, **quick)
        self.named["task"].change(_usual_noise, [self.named["task"]], [self.named["noise"]], **quick)
        for file in (self.mask_file, self.kernel):
            file.change(self._keep, [file], None, **quick)
        if not self.fixed:  # whether there is a folder, or what the Hub has, is nothing that others may ask
            for event in (self.named["model"].submit, self.named["model"].blur):
                event(self._look_at_model, [self.named["model"]], [self.status], **quick)
                event(self._arrange, arranged, parts, **quick)
        inputs = {*self.named.values(), self.files, self.editor, self.mask_file, self.kernel}
        buttons = [self.restore, self.cancel]
        outputs = [*shown, *buttons, self.command, self.python, self.results]
        # Restoring may be asked for while the page still waits for a run that was cancelled.
        device: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "device", "trigger_mode": "multiple"}
        device |= quick
        begun = self.restore.click(self._begin, None, [self.status, *buttons], **quick)
        run = begun.then(self._run, inputs, outputs, **device)
        begun = self.find.click(self._begin, None, [self.status, *buttons], **quick)
        found = begun.then(self._find, inputs, [self.status, self.editor, *buttons], **device)
        self.cancel.click(self._cancel, None, [self.status, self.live, *buttons], cancels=[run, found], **quick)
        for one in (run, found):
            one.failure(self._fail, None, [self.status, self.live, *buttons], **quick)
        self.gallery.select(self._compare, [self.results], [self.slider], **quick)
        self.blocks.load(self._arrive, None, None, **quick)
        self.blocks.unload(self._leave)

    # What happens.

    def _visit(self, request: gr.Request) -> Visit:
        return self.workshop.visit(str(request.session_hash))

    def _arrive(self, request: gr.Request) -> None:
        self._visit(request)

    def _keep(self, files: str | list[str] | None, request: gr.Request) -> None:
        """Remember files that came, to remove them."""
        self._visit(request).uploads.update(map(Path, [files] if isinstance(files, str) else files or []))

    def _leave(self, request: gr.Request) -> None:
        self.workshop.leave(str(request.session_hash))

    def _example(self, name: str) -> tuple[Any, ...]:
        goal = EXAMPLES[name]
        file = make(name, self.workshop.root)
        return [str(file)], goal, ("sr4" if goal == asking.TASK else gr.skip()), asking.ROUNDING

    def _look(self, files: list[str] | None, request: gr.Request) -> _Update:
        """Show the first of the files."""
        old: list[Any] = [self.slider, self.gallery, self.uncertainty, self.downloads, self.same]
        update: _Update = {part: gr.update(visible=False) for part in old}
        update[self.live] = ""
        if not files:
            update[self.preview] = update[self.editor] = None
            return update | {self.status: status("Drop a photograph to begin.")}
        self._keep(files, request)
        self._visit(request).first = Path(files[0])
        if Path(files[0]).suffix.lower() == TAR:
            update[self.preview] = update[self.editor] = None
            return update | {self.status: status(f"{Path(files[0]).name}: the pictures in it will be restored")}
        try:
            picture = images.load(files[0], max_pixels=self._max_pixels)
        except (InvalidInputError, OSError) as error:
            update[self.preview] = update[self.editor] = None
            return update | {self.status: status(without_folder(message(error), files[0]), failed=True)}
        height, width = picture.tensor.shape[-2:]
        more = f", and {len(files) - 1} more" if len(files) > 1 else ""
        update[self.status] = status(f"{Path(files[0]).name}: {width} x {height} pixels{more}. Press Restore.")
        update[self.preview] = views.shown(picture.tensor, views.CANVAS)
        update[self.editor] = views.on_canvas(views.canvas(picture.tensor))
        return update

    def _arrange(self, goal: str, task: str, method: str, noise: str, model: str, files: list[str] | None) -> _Update:
        """Show the controls that what is chosen has."""
        of_task, of_model = goal == asking.TASK, goal == asking.MODEL
        asks = asking.file_arguments(task) if of_task else ()
        masked = "mask" in asks or goal in (asking.OLD, asking.MODEL)
        words = {
            asking.OLD: "What is scratched is found without your help. Paint over it yourself to decide it.",
            asking.MODEL: "For a model that takes a mask: paint over what is damaged.",
        }
        visible: dict[Any, bool] = {
            self.task_group: of_task,
            self.named["model"]: of_model or (of_task and (self.offers_prior or not self.fixed)),
            self.model_group: of_model and self._is_cold(model),
            self.mask_group: masked,
            self.find: goal == asking.OLD,
            self.named["faded"]: goal == asking.OLD,
            self.seed_group: goal != asking.BETTER,
            self.sampling_group: of_task or of_model,
            self.kernel: "kernel" in asks,
            self.named["grey_levels"]: noise == asking.GIVEN,
            self.preview: bool(files) and not masked,
        }
        visible |= {group: name == task for name, group in self.of_task.items()}
        visible |= {group: name == method for name, group in self.of_method.items()}
        update: _Update = {part: gr.update(visible=is_visible) for part, is_visible in visible.items()}
        return update | {self.mask_help: words.get(goal, "Paint over what is missing.")}

    def _is_cold(self, model: str) -> bool:
        try:
            return find_kind((self.model or "") if self.fixed else model.strip()) is COLD
        except InvalidInputError:  # as _look_at_model tells
            return False

    def _look_at_model(self, model: str) -> Any:
        if not model.strip():
            return gr.skip()
        try:
            return status(f"{model.strip()} is {find_kind(model.strip()).noun}.")
        except (InvalidInputError, OSError) as error:
            return status(message(error), failed=True)

    def _begin(self, request: gr.Request) -> _Update:
        self._visit(request).begin()
        return {
            self.status: status("Starting", share=0),
            self.restore: gr.update(interactive=False),
            self.cancel: gr.update(interactive=True),
        }

    def _cancel(self, request: gr.Request) -> _Update:
        self._visit(request).stop.set()
        return {self.status: status("Stopped."), self.live: "", **self._idle()}

    def _fail(self, request: gr.Request) -> Any:
        """Say that a run was cancelled, or that a value was refused, which the page's own message tells."""
        visit = self._visit(request)
        if visit.working is visit.stop:  # it was an earlier run
            return gr.skip()
        stopped = visit.stop.is_set()
        text = "Stopped." if stopped else "This can't be done with what is typed."
        return {self.status: status(text, failed=not stopped), self.live: "", **self._idle()}

    def _idle(self) -> _Update:
        return {self.restore: gr.update(interactive=True), self.cancel: gr.update(interactive=False)}

    def _compare(self, results: list[tuple[Path | Packed, str]], chosen: gr.SelectData) -> Any:
        return self._pair(*results[chosen.index])

    def _run(self, given: dict[Any, Any], request: gr.Request) -> Iterator[_Update]:
        """Restore what was dropped, and show it."""
        visit = self.workshop.find(str(request.session_hash))
        if visit is None:  # the page was closed while this waited
            return
        # What is there is of another run.
        old = [self.slider, self.gallery, self.uncertainty, self.downloads, self.same]
        yield {part: gr.update(visible=False) for part in old}
        files = [Path(file) for file in given[self.files] or []]
        if not files:
            yield {self.status: status("Drop a photograph first.", failed=True), **self._idle()}
            return
        folder = visit.new_folder()
        try:
            choice = self.asked(given, folder)
        except (InvalidInputError, OSError) as error:
            yield {self.status: status(message(error), failed=True), **self._idle()}
            return
        for news in self.workshop.work(visit, choice, files, folder):
            if isinstance(news, Working):
                update: _Update = {self.status: status(news.text, share=news.share)}
                if news.estimate:
                    update[self.live] = (
                        f'<figure><img src="{news.estimate}" alt="estimate"><figcaption>The estimate so far'
                        "</figcaption></figure>"
                    )
                yield update
            else:
                yield {**self._shown(news, choice, folder), self.live: "", **self._idle()}

    def _find(self, given: dict[Any, Any], request: gr.Request) -> Iterator[_Update]:
        """Put what is taken for scratches on the picture, to be corrected."""
        visit = self.workshop.find(str(request.session_hash))
        if visit is None:
            return
        files = [Path(file) for file in given[self.files] or []][:1]
        if not files:
            yield {self.status: status("Drop a photograph first.", failed=True), **self._idle()}
            return
        folder = visit.new_folder()
        for news in self.workshop.work(visit, Asked(None, {"scratches": "find"}), files, folder):
            if isinstance(news, Working):
                yield {self.status: status(news.text, share=news.share)}
                continue
            failure = why_not(news)
            if failure is not None:
                yield {self.status: failure, **self._idle()}
                return
            if visit.first != files[0]:  # it was replaced, and is no longer painted on
                yield self._idle()
                return
            (outcome,) = news.outcomes
            background = views.canvas(images.load(files[0], max_pixels=self._max_pixels).tensor)
            layer = views.layer_of(outcome.job.targets[0], background.size, _PAINT)
            yield {
                self.editor: views.on_canvas(background, layer),
                self.status: status("Erase what is no scratch, paint over what was missed, and restore."),
                **self._idle(),
            }

    @property
    def _max_pixels(self) -> int:
        return self.workshop.max_pixels or images.DEFAULT_MAX_PIXELS

    def asked(self, given: dict[Any, Any], folder: Path) -> Asked:
        """What is chosen, with the files of the mask and the kernel in the folder of the run."""
        values = {name: given[control] for name, control in self.named.items()}
        if self.fixed:  # whatever a visitor sends
            values["model"] = self.model if self.offers_prior or values["goal"] == asking.MODEL else None
        mask = self._mask(given, folder)
        choice = asked(values, mask, _copied(given[self.kernel], folder))
        if values["goal"] == asking.MODEL and choice.model is not None and find_kind(choice.model) is PRIOR:
            raise InvalidInputError(f"{choice.model} is {PRIOR.noun}: choose what was done to the picture, instead")
        return choice

    def _mask(self, given: dict[Any, Any], folder: Path) -> Path | None:
        """The file of a mask that was painted, else of one that was uploaded."""
        painted = (given[self.editor] or {}).get("layers") or []
        if painted:
            first = images.load(given[self.files][0], max_pixels=self._max_pixels).tensor
            mask = views.mask_of(painted, (first.shape[-1], first.shape[-2]))
            if mask is not None:
                mask.save(folder / "mask.png")
                return folder / "mask.png"
        return _copied(given[self.mask_file], folder)

    def _shown(self, news: Ended, choice: Asked, folder: Path) -> _Update:
        """The results, or why there are none."""
        good = [outcome for outcome in news.outcomes if outcome.error is None]
        failure = why_not(news)
        if not good:
            return {self.status: failure}
        pairs = [(one.job.source, str(target)) for one in good for target in one.job.targets]
        files = [target for _, target in pairs]
        if len(files) > 1:
            files.insert(0, _zipped(files, folder / "restored.zip", folder / news.output))
        files += [str(file) for file in (folder / "mask.png",) if file.exists()]
        plain = _with_names(choice, self.workshop.options)
        update: _Update = {
            self.status: failure or report(news),
            self.slider: self._pair(*pairs[0]),
            self.gallery: gr.update(visible=len(pairs) > 1, value=[self._tile(one) for _, one in pairs[:_MOST_TILES]]),
            self.downloads: gr.update(visible=True, value=files),
            self.same: gr.update(visible=True),
            self.command: equivalents.command(plain, news.inputs, news.output),
            self.python: equivalents.python(plain, news.inputs, news.output),
            self.results: pairs,
        }
        return update | {self.uncertainty: self._spread(good[0].job.targets)}

    def _pair(self, before: Path | Packed, after: str) -> Any:
        given, made = (load(file, max_pixels=self._max_pixels).tensor for file in (before, Path(after)))
        return gr.update(value=views.before_and_after(given, made), visible=True)

    def _tile(self, file: str) -> tuple[Any, str]:
        return views.shown(images.load(file, max_pixels=self._max_pixels).tensor, 320), Path(file).name

    def _spread(self, samples: Sequence[Path]) -> Any:
        if len(samples) < 2:
            return gr.update(visible=False)
        picture, brightest = views.uncertainty(samples, self._max_pixels)
        label = f"Where the samples differ; brightest: a standard deviation of {brightest:.1f} of 255 grey levels"
        return gr.update(value=picture, label=label, visible=True)


def _is_for_trials(task: str) -> bool:
    """Whether a task isn't for photographs that somebody has: they come last."""
    summary = _summary(task)
    return "made-up" in summary or ".npy" in summary


def _summary(task: str) -> str:
    try:
        return str(TASKS[task].summary)
    except PlugInError:
        return ""


def _usual_noise(task: str) -> str:
    return asking.ESTIMATED if task == "denoise" else asking.ROUNDING


def _control(argument: Argument) -> gr.components.Component:
    """A control that fits an argument."""
    label, default = argument.label, argument.default
    if isinstance(default, bool):
        return gr.Checkbox(default, label=label, min_width=120)
    if isinstance(default, (int, float)):
        whole = isinstance(default, int)
        return gr.Number(default, label=label, precision=0 if whole else None, step=1 if whole else 0.1, min_width=120)
    if isinstance(default, (list, tuple)):
        return gr.Textbox(asking.written(default), label=label, min_width=160)
    empty = "needed" if argument.needed else "by itself"
    return gr.Textbox(default or "", label=label, placeholder="" if default else empty, min_width=120)


def _with_names(choice: Asked, more: Mapping[str, Any]) -> Asked:
    """The same with the names of files, as they are once they have been downloaded, and with more options."""
    options = {**choice.options, **more}
    files = {name: Path(options[name]).name for name in FILE_ARGUMENTS if name in options}
    return Asked(choice.model, {**options, **files})


def _copied(file: str | None, folder: Path) -> Path | None:
    """A file that was uploaded, where the run keeps it."""
    return None if file is None else Path(shutil.copy(file, folder))


def _zipped(files: Sequence[str], target: Path, output: Path) -> str:
    """An archive of results, under their names in the folder of the output, or beside it."""
    folder = output if output.is_dir() else output.parent
    with zipfile.ZipFile(target, "w") as packed:  # pictures are compressed already
        for file in files:
            packed.write(file, Path(file).relative_to(folder))
    return str(target)
