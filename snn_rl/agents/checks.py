"""Checks that involve several settings, files, or commands."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from snn_rl.agents import plan
from snn_rl.agents.loading import evaluation_env
from snn_rl.agents.objectives import DISTILL
from snn_rl.agents.policies import network_spec
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import belongs, check_settings, settings_of, value_of
from snn_rl.core.networks import AnalogNetwork, NetworkSpec, layers_name
from snn_rl.core.surrogate import SpikeTime, check_surrogate, get_surrogate
from snn_rl.envs import ATARI, STACK, family
from snn_rl.envs.state import check_state
from snn_rl.files.importing import load_any
from snn_rl.formats.registry import optional
from snn_rl.utils.device import check_device
from snn_rl.utils.errors import UserError
from snn_rl.utils.opencv import opencv
from snn_rl.utils.threads import use_threads

# Commands that support a setting
_OTHER_COMMANDS = {
    **dict.fromkeys(("paper", "figure", "table", "sweep"), ("report",)),
    **dict.fromkeys(("zoo", "repo"), ("publish",)),
    "engine": ("evaluate", "play"),
    **dict.fromkeys(("format", "check_frames", "chip"), ("export",)),
    "output": ("export", "evaluate", "play"),
}


def check_values(config: Config) -> None:
    """Checks the settings of a command for agents before any computation.

    Raises:
        UserError: A value is not allowed.
    """
    opencv()  # every environment requires OpenCV
    check_settings(config)
    check_device(config.device)
    if config.track is not None:
        optional(config.track, config.track)
    _check_selection(config)
    _check_spiking(config)
    _check_teacher(config)
    _check_steps(config)
    _check_updates(config)


def _check_selection(config: Config) -> None:
    """Checks the episodes of evaluation and checkpoint selection."""
    first, last = plan.SELECTION_SEED, plan.SELECTION_SEED + plan.SELECTION_SEEDS - 1
    if config.eval.seed <= last and first <= config.eval.seed + config.episodes - 1:
        raise UserError(
            f"eval.seed={config.eval.seed}: the {config.episodes} episodes must not use the seeds "
            f"{first} to {last}, which are reserved for checkpoint selection"
        )
    dqn = config.dqn
    if dqn.target_return is not None and not dqn.selection_games:
        raise UserError(
            f"dqn.target_return={dqn.target_return:g} requires dqn.selection_games >= 1, because "
            "the target is compared with the mean return of those episodes"
        )


def _check_spiking(config: Config) -> None:
    """Checks combinations of settings of the spiking network."""
    iir = config.iir
    try:
        check_surrogate(iir.surrogate)
    except ValueError as error:
        raise UserError(f"iir.{error}") from None
    for name in ("carry_state", "exact"):
        if value_of(config, name) and iir.encoding != "direct":
            raise UserError(f"{name}=true requires iir.encoding=direct, got {iir.encoding}")
    if config.carry_state and isinstance(get_surrogate(iir.surrogate), SpikeTime):
        raise UserError(f"carry_state=true cannot be combined with iir.surrogate={iir.surrogate}")
    if config.bits != Config.bits and not config.exact:
        raise UserError(f"bits={config.bits} requires exact=true")
    if config.engine == "event" and not config.exact:
        raise UserError(
            "engine=event requires T=1 and exact=true because the event engine uses integer "
            "arithmetic"
        )


def _check_teacher(config: Config) -> None:
    """Checks the settings of a privileged teacher."""
    if config.teacher != plan.STATE:
        return
    if config.ann is not None:
        raise UserError("teacher=state trains the ANN: it cannot be combined with ann")
    if config.init is not None:
        raise UserError("teacher=state initializes the ANN: it cannot be combined with init")
    try:
        check_state(config.env)
    except ValueError as error:
        raise UserError(f"teacher=state: {error}") from None
    state = config.state
    plan.hidden_layers(state.hidden)
    plan.ranges(state.ranges)
    if state.steps <= state.learning_starts:
        raise UserError(
            f"state.steps={state.steps} must exceed state.learning_starts={state.learning_starts}, "
            "the number of random steps before the first gradient step"
        )
    if state.checkpoint_steps <= state.n_envs:
        raise UserError(
            f"state.checkpoint_steps={state.checkpoint_steps} must exceed "
            f"state.n_envs={state.n_envs}"
        )
    rows = state.buffer_size // state.n_envs
    longest = max(state.n_steps, state.n_steps_start)
    if state.trace_decay is None and rows <= longest:
        raise UserError(
            f"state.buffer_size={state.buffer_size} must exceed state.n_envs={state.n_envs} times "
            f"the {longest} steps of the longest n-step returns"
        )
    phase = state.n_envs * state.train_freq
    if state.trace_decay is not None and rows < state.train_freq:
        raise UserError(
            f"state.buffer_size={state.buffer_size} must hold a training phase: at least {phase} "
            "(state.n_envs * state.train_freq)"
        )
    if state.trace_decay is not None and state.batch_size > phase:
        raise UserError(
            f"state.batch_size={state.batch_size} must not exceed the {phase} transitions of a "
            "training phase (state.n_envs * state.train_freq)"
        )
    if config.iir.objective != DISTILL:
        raise UserError(
            f"iir.objective={config.iir.objective} cannot be combined with teacher=state, "
            "whose networks learn advantages instead of Q-values: use iir.objective=distill"
        )


def _check_steps(config: Config) -> None:
    """Checks combinations of numbers of steps."""
    dqn, n_envs = config.dqn, config.rollout.n_envs
    longer = "student.steps" if config.teacher == plan.STATE else "dqn.steps"
    first = next(stage for stage in plan.chain(config) if not stage.privileged)
    rows = min(dqn.buffer_size, plan.stage_steps(config, first)) // n_envs - 1
    length = config.carry.burn_in + config.carry.window
    if config.carry_state and length > rows:
        raise UserError(
            f"carry.burn_in + carry.window is {length} frames, but the replay buffer holds only "
            f"{rows} frames per environment. Raise dqn.buffer_size or {longer}, or lower "
            "rollout.n_envs"
        )
    by_q_learning = config.ann is None and config.teacher != plan.STATE
    for name in ("dqn.steps", "finetune.steps"):
        steps = value_of(config, name)
        if by_q_learning and 0 < steps <= dqn.learning_starts:
            raise UserError(
                f"{name}={steps} must exceed dqn.learning_starts={dqn.learning_starts}, the number "
                "of random steps before the first gradient step"
            )
    for name in ("checkpoint_steps", "iir.selection_steps", "dqn.learning_starts"):
        if (steps := value_of(config, name)) <= n_envs:
            raise UserError(
                f"{name}={steps} must exceed rollout.n_envs={n_envs}, because each vectorized step "
                "counts as n_envs steps"
            )


def _check_updates(config: Config) -> None:
    """Refuses stages that would end without a gradient step."""
    for stage in plan.chain(config):
        if not stage.trained or (stage.analog and config.ann):
            continue
        n_envs, section = config.rollout.n_envs, "rollout"
        if stage.privileged:
            state = config.state
            steps, every, starts = state.steps, state.checkpoint_steps, state.learning_starts
            n_envs, section, name = state.n_envs, "state", "state.train_freq"
        else:
            steps, every = plan.stage_steps(config, stage), plan.checkpoint_steps(config, stage)
            learned = stage.analog and not plan.taught(config.teacher, stage)  # by Q-learning
            name = "dqn.train_freq" if learned else "iir.train_freq"
            starts = config.dqn.learning_starts if learned else 0
        phase = value_of(config, name) * n_envs
        # Gradient steps follow a phase of acting, unless a checkpoint cuts the phase short.
        segments = range(0, steps, -(-every // n_envs) * n_envs)
        if not any(
            start + (min(every, steps - start) - 1) // phase * phase > max(start, starts)
            for start in segments[-2:]
        ):
            raise UserError(
                f"{name}={value_of(config, name)}: the stage {stage.name} would end without a "
                f"gradient step, because a training phase takes {phase} agent steps "
                f"({name} * {section}.n_envs) and has to end after {starts} steps "
                f"(learning_starts) and before the next checkpoint ({every} steps) and the last "
                f"step ({steps})"
            )


def refuse_settings_of_other_commands(config: Config) -> None:
    """Raises UserError if a setting of another command differs from its default."""
    for name, commands in _OTHER_COMMANDS.items():
        if (value := value_of(config, name)) != getattr(Config, name):
            supporting = ", ".join(f"snn_rl.{command}" for command in commands)
            raise UserError(f"{name}={value} is only supported by {supporting}")
    if config.play.output == "window":
        raise UserError("play.output=window is only supported by snn_rl.play: choose mp4 or gif")


def import_networks(config: Config) -> tuple[Config, dict[str, AnalogNetwork]]:
    """Loads the networks of the settings `ann`, `init` and `teacher`.

    Returns:
        The settings, in which `network` and `bias` describe the imported ANN, and the networks
        keyed by setting.

    Raises:
        UserError: A file is damaged, contains disallowed objects, or holds a spiking network; a
            network does not fit the environment or `exact`; or the images are too small for
            `network`.
    """
    if config.ann is not None and config.init is not None:
        raise UserError(
            "ann and init are mutually exclusive: ann is converted as is, init is trained further"
        )
    trained = needed = _needed_spec(config)
    networks = {}
    teacher = None if config.teacher == plan.STATE else config.teacher
    files = {"ann": config.ann, "init": config.init, "teacher": teacher}
    for key, file in files.items():
        if file is None:
            continue
        _, height, width = needed.input_shape
        network = load_any(Path(file), (height, width), config.strides, config.pixel_max)
        if not isinstance(network, AnalogNetwork):
            raise UserError(f"{key}={file} is a spiking network, but an ANN is required")
        _check_shapes(config, key, network.spec, needed)
        if key != "teacher":
            try:
                layers = layers_name(network.spec.layers)
            except ValueError as error:
                if network.spec != needed:
                    raise UserError(f"{key}={file} is not supported: {error}") from None
                layers = config.network
            config = replace(config, network=layers, bias=network.spec.bias)
            trained = network.spec
        networks[key] = network
    if config.exact and not trained.is_plain:
        raise UserError(
            "exact=true requires a network of convolutions and dense layers, but "
            f"network={config.network} has other layers"
        )
    return config, networks


def _needed_spec(config: Config) -> NetworkSpec:
    """Returns the network description for the environment of the settings."""
    if config.rollout.full_action_space and family(config.env).name != ATARI:
        raise UserError("rollout.full_action_space=true requires an Atari game")
    try:
        env = evaluation_env(config.env, config.rollout, 1, 0)
        env.close()
        return network_spec(config.network, env.observation_space, env.action_space, config.bias)
    except ValueError as error:
        raise UserError(str(error)) from None


def _check_shapes(config: Config, key: str, spec: NetworkSpec, needed: NetworkSpec) -> None:
    """Checks input and output shapes of a network; a teacher may use more frames."""
    (frames, *image), (least, *wanted) = spec.input_shape, needed.input_shape
    stacked = config.rollout.frames == STACK
    teacher = key == "teacher"
    if teacher and not stacked:
        raise UserError(f"teacher requires rollout.frames={STACK}")
    same = image == wanted and spec.outputs == needed.outputs
    if same and (frames >= least if teacher else frames == least):
        return
    more = ", or more frames" if teacher else ""
    hint = f"; or set rollout.frame_stack={frames}" if same and stacked and not teacher else ""
    raise UserError(
        f"{key}={value_of(config, key)} does not fit env={config.env}: its input shape is "
        f"{spec.input_shape} with {spec.outputs} outputs, but the environment requires input shape "
        f"{needed.input_shape}{more} with {needed.outputs} outputs{hint}"
    )


def prepare(config: Config, command: str, accepted: Collection[str]) -> None:
    """Checks the settings of a command for finished runs and sets the number of threads.

    Raises:
        UserError: A value is not allowed, or a setting that is not in `accepted` differs from its
            default.
    """
    default = compose(Config, [f"env={config.env}"])
    for name in settings_of(Config):
        if value_of(config, name) != value_of(default, name) and not belongs(name, accepted):
            raise UserError(
                f"{command} does not accept {name}: the agent's training settings are read from "
                "its run"
            )
    check_values(config)
    use_threads(config.threads)


def output_file(config: Config, default: Path) -> Path:
    """Returns the file that a command writes: the setting `output`, or the default."""
    path = Path(config.output or default)
    if path.is_dir():
        raise UserError(f"output={path} is a directory: add a file name")
    return path
