"""Neural types: what a tensor means and how its axes are laid out, written once, on ``forward()``.

A port is an annotation, ``Mel[Tensor, "B F={self.num_mels} T"]``: a kind (what the numbers mean) and named axes with
optional sizes. It is read three times: by a static checker, which sees a plain ``Tensor``; by `Chain` when modules are
composed, where kinds, axis names and sizes must fit; and by `checked` in tests, where real tensors must match. Nothing
rides on the tensors themselves, so nothing is lost by an operation and a training step pays nothing.

Axes:

    B batch    S samples    T frames    U labels    N text tokens    F feature bins    D width    H heads
    K head width    V vocabulary or classes    C channels    Q codebooks    P patches    X Y image width and height

A size is a number or a format field over the module: ``D=256``, ``D={self.d_model}``. A prime marks an axis that may
change its size on the way through a module: ``T`` in, ``T'`` out. An empty string is a scalar.
"""

import inspect
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from anemone.errors import PortError

__all__ = [
    "AXES",
    "CONVERSIONS",
    "IGNORED",
    "MFCC",
    "Acoustic",
    "Audio",
    "Bias",
    "Chain",
    "Classes",
    "Codes",
    "Durations",
    "Embedding",
    "Features",
    "Frames",
    "Hidden",
    "Image",
    "KeepMask",
    "Kind",
    "Labels",
    "Length",
    "LogProbs",
    "Logits",
    "Loss",
    "Mel",
    "Patches",
    "Pitch",
    "Port",
    "Ports",
    "Positions",
    "Probs",
    "Rotations",
    "Samples",
    "Segments",
    "Spectrum",
    "Textual",
    "Tokens",
    "Visual",
    "checked",
    "fit",
    "ports",
]

AXES = frozenset("BSTUNFDHKVCQPXY")

IGNORED = -100
"""The target of a position that does not count."""


class Kind:
    """What the numbers of a tensor mean. A port accepts its own kind and any subclass of it."""

    holds: ClassVar[str] = "floating"
    """Element type, as `checked` compares it: "floating", "integer" or "bool"."""

    def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
        """Returns the annotation ``Annotated[Tensor, Port(kind, axes)]``."""
        tensor, axes = item
        unknown = [a for a in axes.split() if a.partition("=")[0].rstrip("'") not in AXES]
        if unknown:
            raise PortError(
                f"`{cls.__name__}[Tensor, {axes!r}]`: `{unknown[0]}` is not an axis; the axes are {sorted(AXES)}."
            )
        return Annotated[tensor, Port(cls, axes)]


if TYPE_CHECKING:
    from typing import Annotated as Acoustic
    from typing import Annotated as Audio
    from typing import Annotated as Bias
    from typing import Annotated as Classes
    from typing import Annotated as Codes
    from typing import Annotated as Durations
    from typing import Annotated as Embedding
    from typing import Annotated as Features
    from typing import Annotated as Frames
    from typing import Annotated as Hidden
    from typing import Annotated as Image
    from typing import Annotated as KeepMask
    from typing import Annotated as Labels
    from typing import Annotated as Length
    from typing import Annotated as LogProbs
    from typing import Annotated as Logits
    from typing import Annotated as Loss
    from typing import Annotated as MFCC
    from typing import Annotated as Mel
    from typing import Annotated as Patches
    from typing import Annotated as Pitch
    from typing import Annotated as Positions
    from typing import Annotated as Probs
    from typing import Annotated as Rotations
    from typing import Annotated as Samples
    from typing import Annotated as Segments
    from typing import Annotated as Spectrum
    from typing import Annotated as Textual
    from typing import Annotated as Tokens
    from typing import Annotated as Visual
else:
    # fmt: off
    class Audio(Kind): "Waveform in [-1, 1]."
    class Features(Kind): "Time-frequency features of speech, of any sort."
    class Spectrum(Features): "Linear-frequency magnitudes or powers."
    class Mel(Features): "Log-mel energies, in nats, normalised or not."
    class MFCC(Features): "Mel-frequency cepstral coefficients."
    class Pitch(Kind): "Fundamental frequency, in Hz; 0 where unvoiced."
    class Image(Kind): "Pixels, channels first."
    class Patches(Kind): "Flattened pieces of an image."
    class Hidden(Kind): "States inside a network."
    class Acoustic(Hidden): "Encoder states of speech."
    class Textual(Hidden): "States over text."
    class Visual(Hidden): "States over images."
    class Embedding(Kind): "One vector for a whole item: a speaker, a sentence, an image."
    class Bias(Kind): "Numbers added to attention scores."
    class Rotations(Kind): "Cosines or sines of the angles by which pairs of numbers are turned."
    class Logits(Kind): "Unnormalised scores over classes or a vocabulary."
    class LogProbs(Kind): "Log-probabilities over classes or a vocabulary."
    class Probs(Kind): "Probabilities."
    class Loss(Kind): "A training objective, in nats unless said otherwise."
    class Tokens(Kind): "Indices of text units: characters, sub-words, phonemes."; holds = "integer"
    class Classes(Kind): "Indices of classes: commands, speakers, languages."; holds = "integer"
    class Codes(Kind): "Indices into a codebook."; holds = "integer"
    class Positions(Kind): "Indices along an axis."; holds = "integer"
    class Segments(Kind): "Numbers of the documents that tokens belong to."; holds = "integer"
    class Durations(Kind): "Frames per token."; holds = "integer"
    class KeepMask(Kind): "True where an element is valid and kept."; holds = "bool"
    class Length(Kind): "Number of valid elements per item."; holds = "integer"
    class Samples(Length): "Valid length per item, in audio samples."
    class Frames(Length): "Valid length per item, in frames."
    class Labels(Length): "Valid length per item, in labels or text tokens."
    # fmt: on

# A wrong kind for which the way out is known: (given, wanted) -> advice.
CONVERSIONS: Mapping[tuple[str, str], str] = {
    ("Audio", "Mel"): "put a `LogMel` between them",
    ("Audio", "Features"): "put a `LogMel` or `MFCC` between them",
    ("Audio", "MFCC"): "put an `MFCC` between them",
    ("Samples", "Frames"): "pass the length the feature module returns, it counts frames",
    ("Frames", "Samples"): "multiply by the hop of the features",
    ("Frames", "Labels"): "pass the length of the text",
    ("Labels", "Frames"): "pass the length the encoder returns",
    ("Logits", "LogProbs"): "apply `log_softmax(-1)`",
    ("Logits", "Probs"): "apply `softmax(-1)`",
    ("LogProbs", "Probs"): "apply `exp()`",
    ("Probs", "LogProbs"): "apply `log()`",
    ("Features", "Acoustic"): "put an encoder between them",
    ("Mel", "Acoustic"): "put an encoder between them",
    ("Image", "Patches"): "cut the image into patches first",
    ("Tokens", "Textual"): "embed the tokens first",
}


class Port(NamedTuple):
    """One named end of a module: a kind, its axes, and where it is."""

    kind: type[Kind]
    axes: str
    where: str = ""
    required: bool = True

    def __str__(self) -> str:
        return f'{self.kind.__name__}["{self.axes}"]'

    @property
    def sizes(self) -> list[tuple[str, int | None]]:
        """Axis names with their sizes, None where the module does not know it."""
        split = (axis.partition("=") for axis in self.axes.split())
        return [(name, int(size) if size else None) for name, _, size in split]


class Ports(NamedTuple):
    """What a module takes and returns, by name, in order."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]


def _port(hint: Any, owner: nn.Module, where: str) -> Port | None:
    """The port inside an annotation; ``Port | None`` marks an input that may be left out."""
    if get_origin(hint) in (Union, types.UnionType):
        found = next((p for h in get_args(hint) if (p := _port(h, owner, where))), None)
        return found and found._replace(required=False)
    marks = [a for a in get_args(hint)[1:] if isinstance(a, Port)] if get_origin(hint) is Annotated else []
    return marks[0]._replace(axes=marks[0].axes.format(self=owner), where=where) if marks else None


def ports(module: nn.Module, name: str = "") -> Ports:
    """Reads the ports of a module from the annotations of its ``forward``.

    Args:
        module: any module; of a `Chain`, the ends that stay open.
        name: what to call the module in messages; its class name by default.

    Raises:
        PortError: ``forward`` returns something other than one port or a ``NamedTuple`` of ports.
    """
    name = name or type(module).__name__
    if isinstance(module, Chain):
        return module.open_ports(name)
    forward = type(module).forward
    hints = {} if forward.__module__.startswith("torch.") else get_type_hints(forward, include_extras=True)
    result = hints.pop("return", None)
    parameters = inspect.signature(forward).parameters
    inputs = {}
    for key, hint in hints.items():
        if port := _port(hint, module, f"{name}.{key}"):
            optional = parameters[key].default is not inspect.Parameter.empty
            inputs[key] = port._replace(required=port.required and not optional)
    if not inputs:
        return Ports({}, {})
    if single := _port(result, module, f"{name}.x"):
        return Ports(inputs, {"x": single})
    fields = (
        get_type_hints(result, include_extras=True) if isinstance(result, type) and issubclass(result, tuple) else {}
    )
    outputs = {key: port for key, hint in fields.items() if (port := _port(hint, module, f"{name}.{key}"))}
    if not outputs or len(outputs) != len(fields):
        raise PortError(
            f"`{name}.forward` must return one port or a NamedTuple whose fields are all ports, "
            f"but returns {result!r} instead."
        )
    return Ports(inputs, outputs)


def fit(sink: Port, source: Port) -> None:
    """Checks that what ``source`` gives is what ``sink`` wants: kind, axis order, sizes.

    `Chain` calls it for each connection; the ``build()`` of a branching model calls it for its own.

    Raises:
        PortError: naming both ends, the difference, and the way out where one is known.
    """
    say = f"`{sink.where}` wants {sink}, but `{source.where}` gives {source}: "
    if not issubclass(source.kind, sink.kind):
        advice = CONVERSIONS.get((source.kind.__name__, sink.kind.__name__))
        raise PortError(
            say + f"{source.kind.__name__} is not {sink.kind.__name__}" + (f"; {advice}." if advice else ".")
        )
    have, want = ([(axis.rstrip("'"), size) for axis, size in port.sizes] for port in (source, sink))
    names, wanted = [a for a, _ in have], [a for a, _ in want]
    if names != wanted:
        if sorted(names) == sorted(wanted) and len(set(names)) == len(names):
            order = ", ".join(str(names.index(a)) for a in wanted)
            raise PortError(say + f"the axes come in another order; `.permute({order})` puts them right.")
        if len(names) != len(wanted):
            raise PortError(say + f"{len(names)} axes, not {len(wanted)}.")
        i = next(i for i, (a, b) in enumerate(zip(names, wanted, strict=True)) if a != b)
        raise PortError(say + f"axis {i} is `{names[i]}`, not `{wanted[i]}`.")
    for (axis, size), (_, needed) in zip(have, want, strict=True):
        if size is not None and needed is not None and size != needed:
            raise PortError(say + f"axis `{axis}` is {size} wide, not {needed}.")


class _Sizes(dict[str, tuple[int, str]]):
    """Axis -> its size in one call of a module, and which input told it: a letter means one size."""

    def learn(self, sink: Port, source: Port) -> None:
        """Takes the sizes that either end of a connection knows."""
        for (axis, wanted), (_, given) in zip(sink.sizes, source.sizes, strict=True):
            size = given if wanted is None else wanted
            if size is None or axis.endswith("'"):
                continue
            known, teller = self.setdefault(axis, (size, sink.where))
            if size != known:
                raise PortError(
                    f"`{sink.where}` gets {source} from `{source.where}`: axis `{axis}` is {size} wide, "
                    f"but {known} in `{teller}`, and one module means one size by it."
                )

    def fill(self, port: Port) -> Port:
        """The port with the sizes that are known now."""
        axes = (
            f"{axis}={self[axis][0]}" if size is None and axis in self else axis if size is None else f"{axis}={size}"
            for axis, size in port.sizes
        )
        return port._replace(axes=" ".join(axes))


class Chain(nn.Module):
    """Runs stages in order, feeding each input from the newest output of the same name.

    Every connection is checked here, before any data flows. An input no earlier stage gives is an input of the chain,
    passed by position or by keyword. A chain has ports itself, so chains nest.

    Example:
        >>> from torch import Tensor, nn, randn
        >>> class Double(nn.Module):
        ...     def forward(self, x: Audio[Tensor, "B S"]) -> Audio[Tensor, "B S"]:
        ...         return 2 * x
        >>> chain = Chain(first=Double(), second=Double())
        >>> x = randn(1, 3)
        >>> bool((chain(x) == 4 * x).all())
        True

    Args:
        **stages: named modules whose ``forward`` has ports.

    Raises:
        PortError: the ports of two stages do not fit, or a stage has none.
    """

    def __init__(self, **stages: nn.Module) -> None:
        super().__init__()
        if not stages:
            raise PortError("`Chain` must have at least one stage, but has none instead.")
        have: dict[str, Port] = {}
        self.wiring: dict[str, dict[str, str]] = {}
        """Stage -> {argument: the stage that feeds it, or "" for an input of the chain}."""
        self.stages: dict[str, Ports] = {}
        """Stage -> its ports, with the sizes that its sources told."""
        opened: dict[str, Port] = {}
        for name, stage in stages.items():
            takes, gives = ports(stage, name)
            if not takes:
                raise PortError(
                    f"`{name}` ({type(stage).__name__}) has no ports: "
                    'annotate its `forward`, as in `x: Mel[Tensor, "B F T"]`.'
                )
            self.wiring[name] = {}
            known = _Sizes()
            for arg, want in takes.items():
                if arg in have or arg in opened:
                    source = have.get(arg) or opened[arg]
                    fit(want, source)
                    known.learn(want, source)
                elif not want.required:
                    continue
                else:
                    if near := next((p for p in have.values() if issubclass(p.kind, want.kind)), None):
                        raise PortError(
                            f"`{name}.{arg}` wants {want}, but no stage before it gives `{arg}`; "
                            f"`{near.where}` gives {near}: call both by one name."
                        )
                    opened[arg] = want
                    known.learn(want, want)
                self.wiring[name][arg] = have[arg].where.partition(".")[0] if arg in have else ""
            inputs = {arg: known.fill(takes[arg]) for arg in self.wiring[name]}
            outputs = {key: known.fill(port)._replace(where=f"{name}.{key}") for key, port in gives.items()}
            self.stages[name] = Ports(inputs, outputs)
            have |= outputs
            self.add_module(name, stage)
        self.inputs = list(opened)
        """Names of the inputs of the chain, in positional order."""

    def open_ports(self, name: str = "Chain") -> Ports:
        """The ports of the chain: inputs that no stage feeds, outputs of the last stage."""
        opened: dict[str, Port] = {}
        for stage, wires in self.wiring.items():
            for arg, source in wires.items():
                if not source:
                    opened.setdefault(arg, self.stages[stage].inputs[arg])
        last = list(self.stages.values())[-1].outputs
        ends = ({key: port._replace(where=f"{name}.{key}") for key, port in side.items()} for side in (opened, last))
        return Ports(*ends)

    def forward(self, *args: Tensor, after: str = "", **kwargs: Tensor) -> Any:
        """Returns what the last stage returns.

        Args:
            *args: inputs of the chain, in the order of `inputs`.
            after: a stage whose outputs are known already: they are given first, and it is passed over with all that
                stand before it; inputs of the chain that are still wanted follow.
            **kwargs: inputs of the chain, by name.

        Raises:
            PortError: an input is missing, given twice, or not one of `inputs`; or an output of ``after`` does not have
                the axes or sizes of its port.
        """
        if after:
            left = list(self.wiring)[list(self.wiring).index(after) + 1 :]
            wanted = [arg for arg in self.inputs if any(self.wiring[name].get(arg) == "" for name in left)]
            known = len(self.stages[after].outputs)
            flow = self._known(after, args[:known]) | dict(zip(wanted, args[known:], strict=True))
        else:
            flow, left = dict(zip(self.inputs, args, strict=False)) | kwargs, list(self.wiring)
            if len(args) + len(kwargs) != len(self.inputs) or flow.keys() != set(self.inputs):
                raise PortError(self._refusal(args, kwargs))
        out: Any = None
        for name, wires in ((name, self.wiring[name]) for name in left):
            out = getattr(self, name)(**{arg: flow[arg] for arg in wires})
            flow = flow | (
                {"x": out} if isinstance(out, Tensor) else dict(zip(self.stages[name].outputs, out, strict=True))
            )
        return out

    def _known(self, stage: str, given: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The outputs of a stage, by name, where they come from outside; they must fit its ports."""
        sizes: dict[str, int] = {}
        for port, value in zip(self.stages[stage].outputs.values(), given, strict=True):
            _compare(stage, "returns", port, value, sizes)
        return dict(zip(self.stages[stage].outputs, given, strict=True))

    def _refusal(self, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> str:
        """What is wrong with the inputs of a call."""
        taken = ", ".join(f"`{name}`" for name in self.inputs)
        given = self.inputs[: len(args)]
        if len(args) > len(self.inputs):
            wrong = f"{len(args)} are given by position"
        elif unknown := [name for name in kwargs if name not in self.inputs]:
            wrong = f"`{unknown[0]}` is given"
        elif twice := [name for name in kwargs if name in given]:
            wrong = f"`{twice[0]}` is given twice"
        else:
            wrong = f"`{next(name for name in self.inputs if name not in given and name not in kwargs)}` is missing"
        return f"`Chain` of {', '.join(self.wiring)} takes {taken}, but {wrong}."


def _compare(module: str, side: str, port: Port, value: Any, sizes: dict[str, int]) -> None:
    """Raises unless a real tensor matches its port; ``sizes`` remembers what each axis letter was."""
    says = f"`{module}` {side} `{port.where.rpartition('.')[2]}: {port}`, but "
    if not isinstance(value, Tensor):
        raise PortError(says + f"a {type(value).__name__} is there instead of a tensor.")
    real = "floating" if value.is_floating_point() or value.is_complex() else "integer"
    real = "bool" if value.dtype == torch.bool else real
    if real != port.kind.holds:
        raise PortError(says + f"its elements are {value.dtype}, not {port.kind.holds}.")
    axes = port.sizes
    if len(axes) != value.ndim:
        raise PortError(says + f"its shape is {tuple(value.shape)}: {value.ndim} axes, not {len(axes)}.")
    for (axis, declared), size in zip(axes, value.shape, strict=True):
        known = sizes.setdefault(axis, size if declared is None else declared)
        if size != known:
            prime = "" if side == "takes" else f"; an axis that may change is written `{axis}'`"
            raise PortError(
                says + f"its shape is {tuple(value.shape)}: axis `{axis}` is {size} wide, not {known}{prime}."
            )


@contextmanager
def checked(model: nn.Module) -> Iterator[None]:
    """Within the block, compares every typed module's real tensors with its ports: rank, sizes, element type.

    For tests and debugging; outside the block nothing is left behind.

    Raises:
        PortError: naming the module, the port and the shape.
    """

    def compare(name: str) -> Any:
        def _hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            inputs, outputs = ports(module)
            inputs = inputs if "after" not in kwargs else {}  # other things are given than its inputs
            names = inputs if isinstance(module, Chain) else inspect.signature(module.forward).parameters
            bound = dict(zip(names, args, strict=False)) | kwargs
            sizes: dict[str, int] = {}
            for key, port in inputs.items():
                if bound.get(key) is not None or port.required:
                    _compare(name, "takes", port, bound.get(key), sizes)
            given = {"x": out} if isinstance(out, Tensor) else dict(zip(outputs, out, strict=False))
            for key, port in outputs.items():
                if given.get(key) is not None or port.required:
                    _compare(name, "returns", port, given.get(key), sizes)

        return _hook

    typed = [(name, m) for name, m in model.named_modules() if ports(m).inputs]
    handles = [m.register_forward_hook(compare(name or type(m).__name__), with_kwargs=True) for name, m in typed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
