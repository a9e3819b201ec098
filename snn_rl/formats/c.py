"""Export as C99 source without dependencies, and the compiled source as an engine.

The source holds the weights of an exact agent and two engines behind the same functions: the
event-driven algorithm of `snn_rl.event.engine`, and a dense one that needs less memory. Both use
integers only, allocate no memory, and return the same Q-values and spikes as the network.
"""

import ctypes
import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.core.networks import SpikingNetwork
from snn_rl.event.engine import Geometry
from snn_rl.event.network import EventNetwork
from snn_rl.files.atomic import write_text
from snn_rl.formats.event import decide, event_network
from snn_rl.formats.registry import Engine
from snn_rl.utils.errors import UserError

COMPILER, FLAGS = "cc", ("-std=c99", "-O3")
_WIDTH = 100  # of lines with weights


def export(network: SpikingNetwork, path: Path, notes: Mapping[str, str]) -> dict[str, Engine]:
    """Writes a source and, beside it, a header, and prints the memory they need.

    The functions' names begin with the name of the file.

    Args:
        network: Network on the integer grid, on the CPU.
        path: Path of the source, with the suffix ".c".
        notes: Notes for the comment at the beginning of the files.

    Raises:
        UserError: The network is not exact, or the name of the file is not suited for functions.
    """
    name = path.stem
    if path.suffix != ".c" or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(
            f"output={path}: the name of the file becomes the name of the functions: use small "
            "letters, digits, and underscores, with the suffix .c, such as pong.c"
        )
    events = event_network(network)
    write(name, events, path.parent, notes)
    for line in memory(events):
        print(line)
    if shutil.which(COMPILER) is None:
        return {}
    kinds: dict[str, list[str]] = {"event-driven": [], "dense": [f"-D{name.upper()}_DENSE"]}
    return {
        f"C, {kind}": _engine(CompiledAgent(path, events, options))
        for kind, options in kinds.items()
    }


def write(name: str, network: EventNetwork, folder: Path, notes: Mapping[str, str]) -> None:
    """Writes `<name>.c` and `<name>.h`; see `export`."""
    write_text(folder / f"{name}.h", header(name, network, notes))
    write_text(folder / f"{name}.c", source(name, network))


def header(name: str, network: EventNetwork, notes: Mapping[str, str]) -> str:
    """Returns the header: sizes and declarations of the functions."""
    channels, height, width = network.input_shape
    return _HEADER.substitute(
        notes=", ".join(f"{key} {value}" for key, value in notes.items()).replace("*/", ""),
        name=name,
        NAME=name.upper(),
        channels=channels,
        height=height,
        width=width,
        actions=len(network.layers[-1].weight),
        hidden=len(network.layers) - 1,
        unit=f"{network.layers[-1].unit:.17g}",
        screen=Template(_SCREEN).substitute(name=name, NAME=name.upper())
        if _is_atari(network)
        else "",
    )


def _is_atari(network: EventNetwork) -> bool:
    """Returns True if the frames have the size of preprocessed Atari screens."""
    return network.input_shape[1:] == (84, 84)


_HEADER = Template("""\
/* Spiking agent that decides in one timestep, written by snn_rl: $notes.

   Integers only, no memory allocation, C99. Compile with -D${NAME}_DENSE to compute all neurons
   in every decision, which is slower but needs less memory. */

#ifndef ${NAME}_H
#define ${NAME}_H

#include <stdint.h>

#define ${NAME}_CHANNELS $channels /* frames, the oldest first */
#define ${NAME}_HEIGHT $height
#define ${NAME}_WIDTH $width
#define ${NAME}_ACTIONS $actions
#define ${NAME}_HIDDEN_LAYERS $hidden
#define ${NAME}_Q_UNIT $unit /* Q-value of the integer 1 */

/* Returns the best action for frames [channels][height][width]; among equals the first. The
   result depends on these frames alone. */
int ${name}_decide(const uint8_t *frames);

/* Returns the Q-values of the last decision [actions], in ${NAME}_Q_UNIT. */
const int32_t *${name}_q_values(void);

/* Returns the spikes (0 or 1) of a hidden layer in the last decision, [y][x][channel]. */
const uint8_t *${name}_spikes(int layer);
$screen
#endif
""")

_SCREEN = """
/* Preprocesses Atari screens, RGB [210][160][3]: appends a frame to `frames` and drops the oldest.
   The frame is the maximum of the last two screens of an agent step, in grayscale, averaged to
   84 x 84 as by OpenCV; exact halves are rounded to even. Before an episode, set all frames to 0,
   and pass its first screen twice. */
void ${name}_see(const uint8_t *newest, const uint8_t *before, uint8_t *frames);
"""


def source(name: str, network: EventNetwork) -> str:
    """Returns the source: weights, tables, and engines."""
    folder = resources.files("snn_rl.formats")
    engine = (folder / "engine.c").read_text()
    if _is_atari(network):
        engine += (folder / "screen.c").read_text()
    texts = {
        "NAME": name.upper(),
        "name": name,
        "WEIGHT": f"int{_weight_bits(network)}_t",
        "TABLES": _tables(name, network),
    }
    for key, text in texts.items():
        engine = engine.replace(f"@{key}@", text)
    return f'#include "{name}.h"\n\n#include <stddef.h>\n#include <string.h>\n\n{engine}'


def _tables(name: str, network: EventNetwork) -> str:
    geometries = Geometry.all(network)
    hidden = geometries[:-1]
    neurons = [int(np.prod(each.out)) for each in hidden]
    positions = [int(np.prod(each.out[1:])) for each in hidden]
    most = max(max(each.shape[0], each.out[0]) for each in geometries)
    sizes = {
        "LAYERS": len(geometries),
        "PIXELS": int(np.prod(network.input_shape)),
        "NEURONS": max(sum(neurons), 1),  # C has no empty arrays
        "POSITIONS": max(sum(positions), 1),
        "MOST_CHANNELS": most,
    }
    parts = ["\n".join(f"#define {key} {value}" for key, value in sizes.items())]
    rows = []
    for i, (layer, geometry) in enumerate(zip(network.layers, geometries, strict=True)):
        parts.append(_array("weight_t", f"weights_{i}", geometry.in_order(layer.weight).tolist()))
        if layer.bias is not None:
            parts.append(_array("int32_t", f"biases_{i}", layer.bias.tolist()))
        numbers = (
            *(*geometry.shape, *geometry.out, *geometry.kernel),
            *(geometry.stride, geometry.padding, geometry.slots),
        )
        biases = "NULL" if layer.bias is None else f"biases_{i}"
        rows.append(
            f"    {{{', '.join(map(str, numbers))}, weights_{i}, {biases}, "
            f"{layer.v_threshold or 0}}}, /* {layer.name} */"
        )
    parts.append("\n".join(["static const layer_t layers[LAYERS] = {", *rows, "};"]))
    parts.append(_array("int32_t", "first_spike", _starts(neurons)))
    places = _array("int32_t", "first_position", _starts(positions))
    parts.append(f"#ifndef {name.upper()}_DENSE\n{places}\n#endif")
    return "\n\n".join(parts) + "\n"


def _weight_bits(network: EventNetwork) -> int:
    """Returns 8 if 8 bits hold all weights, otherwise 16."""
    return 8 if all(np.abs(layer.weight).max() < 128 for layer in network.layers) else 16


def _starts(sizes: Iterable[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


def _array(kind: str, name: str, values: list[int]) -> str:
    lines, line = [], "   "
    for value in values:
        text = f" {value},"
        if len(line) + len(text) > _WIDTH:
            lines.append(line)
            line = "   "
        line += text
    return "\n".join([f"static const {kind} {name}[] = {{", *lines, line, "};"])


def memory(network: EventNetwork) -> list[str]:
    """Returns lines with the memory that each layer and both engines need."""
    lines, flash, event = [], 0, int(np.prod(network.input_shape))
    spikes, widest, size = 0, 0, _weight_bits(network) // 8
    for layer, geometry in zip(network.layers, Geometry.all(network), strict=True):
        neurons = int(np.prod(geometry.out))
        constant = size * geometry.in_order(layer.weight).size
        constant += 0 if layer.bias is None else 4 * len(layer.bias)
        firing = 0 if layer.v_threshold is None else neurons
        state = 4 * neurons + firing + (int(np.prod(geometry.out[1:])) if firing else 0)
        lines.append(f"{layer.name}: {constant:,} bytes of flash, {state:,} bytes of RAM")
        flash, event, spikes = flash + constant, event + state, spikes + firing
        widest = max(widest, *geometry.out[:1], geometry.shape[0])
    dense = spikes + 4 * (widest + len(network.layers[-1].weight))
    lines.append(
        f"total: {flash:,} bytes of flash for constants; {event:,} bytes of RAM event-driven, "
        f"{dense:,} bytes dense"
    )
    return lines


class CompiledAgent:
    """Agent of a compiled source, with the interface of `snn_rl.event.engine.EventEngine`.

    Args:
        path: Path of a source that `export` wrote.
        network: Integers of the network.
        options: Options of the compiler, such as "-DPONG_DENSE" or "-march=native".

    Raises:
        OSError: The compiler cannot be started.
        RuntimeError: The source cannot be compiled.
    """

    def __init__(self, path: Path, network: EventNetwork, options: Sequence[str] = ()):
        self.network = network
        library, name = compiled_library(path, options), path.stem
        self._decide = library[f"{name}_decide"]
        self._decide.argtypes = [ctypes.c_void_p]
        q_values, self._spikes = library[f"{name}_q_values"], library[f"{name}_spikes"]
        q_values.restype = ctypes.POINTER(ctypes.c_int32)
        self._spikes.restype = ctypes.POINTER(ctypes.c_uint8)
        # The functions return the same addresses after every decision.
        head = network.layers[-1]
        self._q_values = np.ctypeslib.as_array(q_values(), (len(head.weight),))
        self._unit = np.float32(head.unit)
        self._outputs = [(*shape, 1, 1)[:3] for shape in network.shapes[:-1]]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the Q-values of an image, uint8 [channels, height, width]."""
        self.action(pixels)
        return self._q_values.astype(np.float32) * self._unit

    def action(self, pixels: NDArray[np.uint8]) -> int:
        """Returns the greedy action; among equal Q-values the first."""
        assert pixels.shape == self.network.input_shape and pixels.flags.c_contiguous
        return int(self._decide(pixels.ctypes.data))

    @property
    def spikes(self) -> list[NDArray[np.uint8]]:
        """Spikes (0 or 1) of each hidden layer, [channels, height, width] or [units]."""
        found = []
        for i, (channels, height, width) in enumerate(self._outputs):
            flat = np.ctypeslib.as_array(self._spikes(i), (height, width, channels))
            found.append(flat.transpose(2, 0, 1).reshape(self.network.shapes[i]).copy())
        return found


def compiled_library(path: Path, options: Sequence[str]) -> ctypes.CDLL:
    """Compiles a source as a shared library, loads it, and deletes its file.

    Args:
        path: Path of the source.
        options: Further options of the compiler.

    Raises:
        OSError: The compiler cannot be started.
        RuntimeError: The source cannot be compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "agent.so")
        command = [COMPILER, *FLAGS, *options, "-shared", "-fPIC", "-o", str(library), str(path)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr}")
        return ctypes.CDLL(str(library))


def _engine(agent: CompiledAgent) -> Engine:
    """Returns an agent as an engine for batches in torch."""

    def run(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        images = pixels[:, -agent.network.input_shape[0] :].contiguous().numpy()
        return decide(itertools.repeat(agent), images)

    return run
