"""What the schema's types cannot say: choices and ranges, checked before anything is done."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from snn_rl.agents import plan
from snn_rl.agents.dqn import OPTIMIZERS
from snn_rl.agents.objectives import OBJECTIVES
from snn_rl.agents.policies import network_spec
from snn_rl.configs.compose import compose, keys, value_of
from snn_rl.configs.schema import Config
from snn_rl.core.conversion.thresholds import PERCENTILES_OVER
from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.networks import AnalogNetwork, NetworkSpec, layers_name
from snn_rl.core.surrogate import SpikeTime, check_surrogate, get_surrogate
from snn_rl.envs import FRAMES, STACK, make_env
from snn_rl.files.importing import load_any
from snn_rl.utils.device import check_device
from snn_rl.utils.errors import UserError
from snn_rl.utils.opencv import opencv
from snn_rl.utils.threads import use_threads

_CHOICES: dict[str, Collection[str]] = {
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "float32", "bfloat16"),
    "rollout.frames": FRAMES,
    "dqn.optimizer": OPTIMIZERS,
    "iir.optimizer": OPTIMIZERS,
    "iir.objective": OBJECTIVES,
    "iir.percentile_over": PERCENTILES_OVER,
    "iir.encoding": ENCODINGS,
    "engine": ("dense", "event"),
    "format": ("onnx", "nir", "torch", "event"),
    "play.output": ("auto", "window", "mp4", "gif"),
}

_AT_LEAST_ONE = (
    "episodes",
    "check_frames",
    "rollout.n_envs",
    "rollout.frame_stack",
    "rollout.cap",
    "dqn.steps",
    "dqn.batch_size",
    "dqn.buffer_size",
    "dqn.n_steps",
    "dqn.train_freq",
    "dqn.gradient_steps",
    "dqn.target_update_interval",
    "dqn.epsilon_steps",
    "iir.steps",
    "iir.batch_size",
    "iir.train_freq",
    "iir.gradient_steps",
    "iir.conversion_samples",
    "carry.steps",
    "play.max_steps",
    "play.fps",
)

# (lowest, highest) allowed, both included
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "eval.seed": (0, 2**31 - 1),
    "threads": (0, 1024),
    "pixel_max": (1e-6, 1e6),
    "dqn.lr": (0.0, 10.0),
    "dqn.lr_end": (0.0, 1.0),
    "dqn.lr_steps": (1, 10**9),
    "dqn.gamma": (0.0, 1.0),
    "finetune.steps": (0, 10**9),
    "finetune.sticky": (0.0, 1.0),
    "finetune.lr": (0.0, 10.0),
    "finetune.selection_games": (0, plan.SELECTION_SEEDS),
    "dqn.epsilon_start": (0.0, 1.0),
    "dqn.epsilon_end": (0.0, 1.0),
    "dqn.selection_games": (0, plan.SELECTION_SEEDS),
    "iir.selection_games": (0, plan.SELECTION_SEEDS),
    "iir.selection_sticky_games": (0, plan.SELECTION_SEEDS),
    "iir.t1_steps": (0, 10**9),
    "iir.lr": (0.0, 10.0),
    "iir.epsilon": (0.0, 1.0),
    "iir.sticky": (0.0, 1.0),
    "iir.sharpness": (1e-6, 1e6),
    "iir.percentile": (1e-6, 100.0),
    "carry.leak": (0.0, 1.0),
    "carry.burn_in": (0, 1_000),
    "carry.window": (2, 1_000),
    "rollout.sticky": (0.0, 1.0),
    "eval.epsilon": (0.0, 1.0),
    "eval.sticky": (0.0, 1.0),
}


def check_values(config: Config) -> None:
    """Refuses values that no run could work with.

    Raises:
        UserError: It names the setting and what it may be.
    """
    opencv()  # everything is seen through it
    for name, choices in _CHOICES.items():
        value = value_of(config, name)
        if value not in choices:
            raise UserError(f"{name}={value}: must be one of {', '.join(choices)}")
    try:
        check_surrogate(config.iir.surrogate)
    except ValueError as error:
        raise UserError(f"iir.surrogate={config.iir.surrogate}: {error}") from None
    check_device(config.device)
    for name in _AT_LEAST_ONE:
        value = value_of(config, name)
        if value < 1:
            raise UserError(f"{name}={value}: must be 1 or more")
    for name, (low, high) in _RANGES.items():
        value = value_of(config, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{name}={value}: must be between {low:g} and {high:g}")
    first, last = plan.SELECTION_SEED, plan.SELECTION_SEED + plan.SELECTION_SEEDS - 1
    if config.eval.seed <= last and first <= config.eval.seed + config.episodes - 1:
        raise UserError(
            f"eval.seed={config.eval.seed}: the seeds {first} to {last} are for the games that "
            f"choose among checkpoints; {config.episodes} games have to stay clear of them"
        )
    if config.dqn.target_return is not None and not config.dqn.selection_games:
        raise UserError(
            f"dqn.target_return={config.dqn.target_return:g}: it is the mean of the games that "
            "dqn.selection_games counts, which must be 1 or more"
        )
    if config.carry_state and config.iir.encoding != "direct":
        raise UserError(
            f"carry_state=true goes with iir.encoding=direct, not {config.iir.encoding}"
        )
    if config.carry_state and isinstance(get_surrogate(config.iir.surrogate), SpikeTime):
        raise UserError(f"carry_state=true does not go with iir.surrogate={config.iir.surrogate}")
    if config.exact and config.iir.encoding != "direct":
        raise UserError(f"exact=true goes with iir.encoding=direct, not {config.iir.encoding}")
    if config.engine == "event" and not config.exact:
        raise UserError("engine=event decides in integers: it goes with T=1 exact=true")
    played = config.dqn.learning_starts if config.ann else config.dqn.steps
    rows = min(config.dqn.buffer_size, played) // config.rollout.n_envs - 1
    length = config.carry.burn_in + config.carry.window
    if config.carry_state and length > rows:
        raise UserError(
            f"carry.burn_in + carry.window = {length} frames in a row: the replay buffer holds "
            f"{rows} of each environment (dqn.buffer_size and dqn.steps over rollout.n_envs)"
        )
    for name in ("dqn.steps", "finetune.steps"):
        steps, starts = value_of(config, name), config.dqn.learning_starts
        if config.ann is None and 0 < steps <= starts:
            raise UserError(
                f"{name}={steps}: must be more than dqn.learning_starts={starts}, the random steps "
                "before anything is learnt"
            )
    for name in ("checkpoint_steps", "iir.selection_steps", "dqn.learning_starts"):
        if value_of(config, name) <= config.rollout.n_envs:
            raise UserError(
                f"{name}={value_of(config, name)}: must be more than rollout.n_envs="
                f"{config.rollout.n_envs}, the steps that are taken at once"
            )


def refuse_settings_of_other_commands(config: Config) -> None:
    """Refuses, for a training, what only other commands look at.

    Raises:
        UserError: It names the setting and its command.
    """
    for name, command in (
        *(("paper", "report"), ("figure", "report"), ("table", "report"), ("sweep", "report")),
        *(("zoo", "publish"), ("engine", "evaluate")),
        *(("format", "export"), ("output", "export"), ("check_frames", "export")),
    ):
        if value_of(config, name) != getattr(Config, name):
            raise UserError(f"{name}={value_of(config, name)}: this is for snn_rl.{command}")
    if config.play.output == "window":
        raise UserError("play.output=window: this is for snn_rl.play; a training writes mp4 or gif")


def import_networks(config: Config) -> tuple[Config, dict[str, AnalogNetwork]]:
    """Loads what `ann=`, `init=` and `teacher=` name, and refuses what is of no use to the chain.

    Returns:
        The settings, with the layers that the ANN brings in place of their own, and the networks
        by key.

    Raises:
        UserError: A file is damaged, not trusted, spiking, or of other shapes than the environment
            needs; or the settings' own layers do not fit its images.
    """
    if config.ann is not None and config.init is not None:
        raise UserError("ann= and init= exclude each other: the first is not trained any more")
    rollout = config.rollout
    env = make_env(config.env, 1, frame_stack=rollout.frame_stack, frames=rollout.frames)
    env.close()
    try:
        needed = network_spec(config.network, env.observation_space, env.action_space, config.bias)
    except ValueError as error:
        raise UserError(str(error)) from None
    networks = {}
    files = {"ann": config.ann, "init": config.init, "teacher": config.teacher}
    for key, file in files.items():
        if file is None:
            continue
        _, height, width = needed.input_shape
        network = load_any(Path(file), (height, width), config.strides, config.pixel_max)
        if not isinstance(network, AnalogNetwork):
            raise UserError(f"{key}={file} is a spiking network; needed is an ANN")
        spec = network.spec
        if key == "teacher":
            _check_teacher(config, spec, needed)
        elif (spec.input_shape, spec.outputs) != (needed.input_shape, needed.outputs):
            frames = f", or rollout.frame_stack={spec.input_shape[0]}"
            other = rollout.frames == STACK and spec.input_shape[1:] == needed.input_shape[1:]
            raise UserError(
                f"{key}={file} does not fit env={config.env}: it takes {spec.input_shape} to "
                f"{spec.outputs} Q-values, needed are {needed.outputs} from {needed.input_shape}"
                f"{frames if other and spec.outputs == needed.outputs else ''}"
            )
        else:
            try:
                config = replace(config, network=layers_name(spec.layers), bias=spec.bias)
            except ValueError as error:
                raise UserError(f"{key}={file} cannot be used: {error}") from None
        networks[key] = network
    return config, networks


def _check_teacher(config: Config, spec: NetworkSpec, needed: NetworkSpec) -> None:
    """A teacher may be of other layers, and see more frames."""
    (frames, *image), (fewest, *wanted) = spec.input_shape, needed.input_shape
    if config.rollout.frames != STACK:
        raise UserError(f"teacher= goes with rollout.frames={STACK}")
    if frames < fewest or image != wanted or spec.outputs != needed.outputs:
        raise UserError(
            f"teacher={config.teacher} does not fit env={config.env}: it takes {spec.input_shape} "
            f"to {spec.outputs} Q-values, needed are {needed.outputs} from {needed.input_shape}, "
            "or from more frames"
        )


def refuse_training_settings(config: Config, command: str, accepted: Sequence[str]) -> None:
    """Refuses settings that the command would ignore: a finished run has its own.

    Args:
        config: The resolved settings.
        command: For the message.
        accepted: Names of settings, or of groups of them.

    Raises:
        UserError: A setting other than the accepted ones is not at its default.
    """
    default = compose(Config, [f"env={config.env}"])
    for key in keys():
        value, usual = config, default
        for part in key.split("."):
            value, usual = getattr(value, part), getattr(usual, part)
        if value != usual and key not in accepted and key.split(".")[0] not in accepted:
            raise UserError(
                f"{command} does not take {key}: what the agent was trained with is read from "
                "its run; leave it out"
            )


def prepare(config: Config, command: str, accepted: Sequence[str]) -> None:
    """What a command on a finished run does first: checks its settings, and sets the threads.

    Args:
        config: The resolved settings.
        command: See `refuse_training_settings`.
        accepted: See `refuse_training_settings`.

    Raises:
        UserError: A setting is refused.
    """
    refuse_training_settings(config, command, accepted)
    check_values(config)
    use_threads(config.threads)
