"""Settings of the commands for agents."""

from dataclasses import dataclass, field

from snn_rl.configs.setting import CUSTOM, setting

MAX_SELECTION_GAMES = 10_000  # number of seeds reserved for the selection of checkpoints


@dataclass
class RolloutConfig:
    """Training environments. Evaluation uses the same observations."""

    n_envs: int = setting(8, "Number of parallel environments.", minimum=1)
    frame_stack: int = setting(4, "Number of frames in an observation.", minimum=1, maximum=32)
    frames: str = setting(
        "stack",
        "Observations: stacked frames, or the difference of the last two frames.",
        choices=("stack", "difference"),
    )
    sticky: float = setting(0.0, "Sticky-action probability.", minimum=0, maximum=1)
    cap: int = setting(27_000, "Maximum agent steps per episode.", minimum=1)
    full_action_space: bool = setting(
        False, "Use all 18 Atari actions instead of those that the game uses."
    )


@dataclass
class DQNConfig:
    """Q-learning in the ANN stage.

    teacher=state uses only buffer_size and optimizer. iir.objective=td also uses gamma, n_steps,
    double, and target_update_interval.
    """

    steps: int = setting(1_000_000, "Agent steps of the ANN stage.", minimum=1)
    lr: float = setting(1e-4, "Initial learning rate.", minimum=0, maximum=10)
    optimizer: str = setting("Adam", "Optimizer of the ANN stage.", choices=("Adam", "RMSprop"))
    batch_size: int = setting(32, "Transitions per mini-batch.", minimum=1)
    buffer_size: int = setting(100_000, "Transitions in the replay buffer.", minimum=1)
    learning_starts: int = setting(10_000, "Random agent steps before training starts.")
    gamma: float = setting(0.99, "Discount factor.", minimum=0, maximum=1)
    n_steps: int = setting(1, "Number of steps in n-step returns.", minimum=1)
    double: bool = setting(False, "Use double Q-learning.")
    train_freq: int = setting(1, "Vectorized environment steps per training phase.", minimum=1)
    gradient_steps: int = setting(1, "Gradient steps per training phase.", minimum=1)
    target_update_interval: int = setting(
        1_000, "Agent steps between updates of the target network.", minimum=1
    )
    epsilon_start: float = setting(1.0, "Initial value of epsilon.", minimum=0, maximum=1)
    epsilon_end: float = setting(0.01, "Final value of epsilon.", minimum=0, maximum=1)
    epsilon_steps: int = setting(
        100_000, "Agent steps over which epsilon decays linearly.", minimum=1
    )
    lr_end: float = setting(1.0, "Final learning rate divided by lr.", minimum=0, maximum=1)
    lr_steps: int | None = setting(
        None, "Agent steps over which lr decays; null uses all steps of the stage.", minimum=1
    )
    selection_games: int = setting(
        0,
        "Evaluation episodes per checkpoint, used to select the best one. Selection starts when "
        "epsilon has reached its final value. 0 keeps the last checkpoint.",
        minimum=0,
        maximum=MAX_SELECTION_GAMES,
    )
    target_return: float | None = setting(
        None, "The stage ends when the selection episodes reach this mean return."
    )


@dataclass
class FinetuneConfig:
    """Fine-tuning of the ANN under sticky actions. Other settings are taken from `dqn`."""

    steps: int = setting(
        0, "Agent steps; 0, ann=FILE, or teacher=state disables fine-tuning.", minimum=0
    )
    sticky: float = setting(0.25, "Sticky-action probability.", minimum=0, maximum=1)
    lr: float = setting(1e-4, "Initial learning rate.", minimum=0, maximum=10)
    selection_games: int = setting(
        20,
        "Evaluation episodes per checkpoint of the second half, used to select the best one: this "
        "many with and this many without sticky actions. 0 keeps the last checkpoint.",
        minimum=0,
        maximum=MAX_SELECTION_GAMES,
    )


@dataclass
class StateConfig:
    """Privileged teacher (teacher=state): QR-DQN or PQN from the emulator's state."""

    steps: int = setting(2_500_000, "Agent steps of the teacher.", minimum=1)
    n_envs: int = setting(32, "Number of parallel environments.", minimum=1, maximum=1024)
    sticky: float = setting(0.25, "Sticky-action probability.", minimum=0, maximum=1)
    steady: float = setting(
        0.25,
        "Share of the training environments without sticky actions, also those of the students.",
        minimum=0,
        maximum=1,
    )
    frames: int = setting(4, "Number of states in an observation.", minimum=1, maximum=32)
    explore_steps: int = setting(
        20_000,
        "Random agent steps that find the state variables that vary and can be seen.",
        minimum=1,
    )
    hidden: str = setting("128-128", "Neurons of each hidden layer.")
    ranges: str | None = setting(
        "20-100",
        "Ranges of the differences between state variables, which are additional inputs of the "
        "network; null for none.",
    )
    quantiles: int = setting(16, "Quantiles of the return of an action.", minimum=1, maximum=1_000)
    lr: float = setting(1e-3, "Initial learning rate of AdamW.", above=0, maximum=10)
    lr_end: float = setting(0.1, "Final learning rate divided by lr.", minimum=0, maximum=1)
    batch_size: int = setting(256, "Transitions per mini-batch.", minimum=1)
    buffer_size: int = setting(1_000_000, "Transitions in the replay buffer.", minimum=1)
    learning_starts: int = setting(20_000, "Random agent steps before training starts.", minimum=0)
    train_freq: int = setting(1, "Vectorized environment steps per training phase.", minimum=1)
    gradient_steps: int = setting(1, "Gradient steps per training phase.", minimum=1)
    max_grad_norm: float = setting(
        10.0, "Maximum norm of the gradient; larger gradients are scaled down.", above=0
    )
    tau_start: float = setting(
        0.005,
        "Initial share of the trained network that enters the averaged network at each update.",
        above=0,
        maximum=1,
    )
    tau: float = setting(0.001, "Final value of state.tau_start.", above=0, maximum=1)
    trace_decay: float | None = setting(
        None,
        "Lambda of the lambda-returns. A number selects PQN, which learns from the newest "
        "state.train_freq steps and ignores state.n_steps and state.n_steps_start. null selects "
        "QR-DQN, which learns n-step returns from replay.",
        minimum=0,
        maximum=1,
    )
    n_steps_start: int = setting(
        10, "Initial number of steps in n-step returns.", minimum=1, maximum=100
    )
    n_steps: int = setting(5, "Final number of steps in n-step returns.", minimum=1, maximum=100)
    gamma_start: float = setting(0.98, "Initial discount factor.", minimum=0, below=1)
    gamma: float = setting(0.99, "Final discount factor.", minimum=0, below=1)
    horizon_updates: int = setting(
        40_000, "Updates over which n_steps and gamma reach their final values.", minimum=1
    )
    epsilon_end: float = setting(0.01, "Final value of epsilon.", minimum=0, maximum=1)
    epsilon_steps: int = setting(
        100_000, "Agent steps over which epsilon decays linearly from 1.", minimum=1
    )
    checkpoint_steps: int = setting(
        250_000,
        "Agent steps between checkpoints. A checkpoint discards an unfinished training phase.",
        minimum=1,
    )


@dataclass
class StudentConfig:
    """ANN that learns from a privileged teacher (teacher=state).

    The ANN starts to learn after 2 % of the steps. The learning rate rises over the first 5 % and
    falls to 0 over the last 25 %. state.sticky, state.steady, dqn.buffer_size, dqn.optimizer,
    iir.epsilon, iir.train_freq, and iir.sharpness also apply.
    """

    steps: int = setting(160_000, "Agent steps of the ANN stage.", minimum=1)
    lr: float = setting(1e-3, "Highest learning rate.", above=0, maximum=10)
    batch_size: int = setting(32, "Observations per mini-batch.", minimum=1)
    gradient_steps: int = setting(1, "Gradient steps per training phase.", minimum=1)
    guided_steps: int = setting(
        40_000,
        "Agent steps over which the ANN takes over from the teacher, which acts at first.",
        minimum=0,
    )


@dataclass
class IIRConfig:
    """Conversion and spiking stages."""

    objective: str = setting(
        "distill",
        "Loss: Q-learning, distillation, or both.",
        choices=("td", "distill", "distill+td"),
    )
    steps: int = setting(20_000, "Agent steps per stage.", minimum=1)
    t1_steps: int = setting(0, "Agent steps of the T=1 stage; 0 uses iir.steps.", minimum=0)
    lr: float = setting(5e-4, "Initial learning rate.", minimum=0, maximum=10)
    cosine: bool = setting(True, "Cosine learning-rate schedule instead of a constant rate.")
    optimizer: str = setting("Adam", "Optimizer of spiking stages.", choices=("Adam", "RMSprop"))
    batch_size: int = setting(128, "Transitions per mini-batch.", minimum=1)
    train_freq: int = setting(1, "Vectorized environment steps per training phase.", minimum=1)
    gradient_steps: int = setting(1, "Gradient steps per training phase.", minimum=1)
    epsilon: float = setting(0.02, "Probability of a random action.", minimum=0, maximum=1)
    sticky: float | None = setting(
        None,
        "Sticky-action probability; null uses state.sticky with teacher=state, and rollout.sticky "
        "otherwise.",
        minimum=0,
        maximum=1,
    )
    selection_games: int = setting(
        0,
        "Evaluation episodes with rollout.sticky per checkpoint of the second half, used to select "
        "the best one. 0 skips these episodes.",
        minimum=0,
        maximum=MAX_SELECTION_GAMES,
    )
    selection_sticky_games: int = setting(
        0,
        "Additional selection episodes with the stage's sticky-action probability if it differs "
        "from rollout.sticky. The score is the average of both means.",
        minimum=0,
        maximum=MAX_SELECTION_GAMES,
    )
    selection_steps: int = setting(10_000, "Agent steps between checkpoints for the selection.")
    sharpness: float = setting(
        3.0, "Inverse temperature of the policies in the distillation loss.", above=0, maximum=1e6
    )
    percentile: float = setting(
        90.0, "Percentile of a layer's inputs, used as its threshold.", above=0, maximum=100
    )
    percentile_over: str = setting(
        "positive", "Inputs in the percentile; the paper uses all.", choices=("positive", "all")
    )
    surrogate: str = setting(
        "linear", "Spike surrogate gradient.", choices=("snn_rl.core.surrogate:SURROGATES", CUSTOM)
    )
    encoding: str = setting("direct", "Encoding of the input.", choices=("direct", "poisson"))
    conversion_samples: int = setting(
        256, "Observations used in the threshold search.", minimum=1, maximum=10_000
    )


@dataclass
class CarryConfig:
    """Stage that carries membrane potentials over frames. Other settings are taken from `iir`."""

    steps: int = setting(50_000, "Agent steps.", minimum=1)
    leak: float = setting(0.0, "Initial leak of all layers (0: no memory).", minimum=0, maximum=1)
    burn_in: int = setting(8, "Frames that initialize the state.", minimum=0, maximum=1_000)
    window: int = setting(8, "Frames included in the loss.", minimum=2, maximum=1_000)


@dataclass
class EvalConfig:
    """Evaluation episodes."""

    seed: int = setting(
        1_000_000, "Seed of the first episode, then seed + 1, ...", minimum=0, maximum=2**31 - 1
    )
    epsilon: float = setting(0.0, "Probability of a random action.", minimum=0, maximum=1)
    sticky: float = setting(
        0.25, "Sticky-action probability in the sticky episodes.", minimum=0, maximum=1
    )


@dataclass
class PlayConfig:
    """Settings of the play command and of videos."""

    output: str = setting(
        "auto",
        "Output; auto opens a window, or writes an mp4 without a display.",
        choices=("auto", "window", "mp4", "gif"),
    )
    overlay: bool = setting(False, "Show spikes and Q-values beside the game.")
    max_steps: int = setting(2_000, "Maximum agent steps.", minimum=1)
    fps: int = setting(30, "Frames (agent steps) per second; 15 is real time.", minimum=1)


@dataclass
class Config:
    """General settings of the commands for agents."""

    env: str = setting("", "Environment: CartPole-v1, or <Game>NoFrameskip-v4 for Atari.")
    T: int = setting(1, "Timesteps of the last stage.")
    seed: int = setting(0, "Seed of all random number generators.", minimum=0, maximum=2**31 - 1)
    preset: str = setting("default", "Preset: default, or paper for the settings of the paper.")
    T_start: int = setting(5, "Timesteps of the first spiking stage.")
    T_step: int = setting(1, "Difference in T from one stage to the next.")
    direct: bool = setting(False, "Retrain at T directly, without intermediate stages.")
    stages: str = setting("iir", "Spiking stages: iir, or none to convert without retraining.")
    run_dir: str | None = setting(None, "Run directory; null uses <runs>/<env>/seed<seed>.")
    runs: str = setting("runs", "Folder of all runs.")
    paper: str | None = setting(None, "report only: which paper (iir, stdb, or ull).")
    figure: int | None = setting(None, "report only: number of the figure in the paper.")
    table: int | None = setting(None, "report only: number of the table in the paper.")
    sweep: str | None = setting(None, "report only: folder of runs to aggregate.")
    zoo: str | None = setting(None, "publish only: target folder; null uses snn_rl/zoo.")
    repo: str | None = setting(
        None, "publish only: repository on the Hugging Face Hub for the last agent, USER/NAME."
    )
    ann: str | None = setting(
        None,
        "Trained ANN to convert instead of training one: network.safetensors, a zip file of a "
        "Stable-Baselines3 DQN, or a PyTorch state dict (.pth, .safetensors).",
    )
    init: str | None = setting(None, "Network with the initial weights of the ANN stage.")
    teacher: str | None = setting(
        None,
        "Teacher of all stages: an ANN, which may use more frames, or state to train a teacher "
        "that observes the emulator's state.",
    )
    strides: list[int] | None = setting(
        None, "Strides of an imported state dict; null uses those of mnih."
    )
    pixel_max: float = setting(
        1.0, "Largest pixel value that an imported network expects, 1 or 255.", above=0, maximum=1e6
    )
    carry_state: bool = setting(False, "Add a stage that carries membrane potentials over frames.")
    exact: bool = setting(False, "Add a T=1 network with bit-identical results in all engines.")
    bits: int = setting(12, "exact only: largest number of bits per weight.", minimum=2, maximum=12)
    engine: str = setting(
        "dense", "evaluate and play: engine; event requires exact=true.", choices=("dense", "event")
    )
    network: str = setting(
        "mnih",
        "Network: mnih, cartpole, hidden layers such as 16c8s4-32c4s2-256, or module:function.",
    )
    bias: bool = setting(False, "Use biases in all layers.")
    precision: str = setting(
        "auto",
        "Training precision; auto uses bfloat16 where it is fast.",
        choices=("auto", "float32", "bfloat16"),
    )
    device: str = setting("auto", "Device of the networks: auto, cpu, cuda, cuda:1, ...")
    threads: int = setting(0, "CPU threads; 0 uses one per core.", minimum=0, maximum=1024)
    checkpoint_steps: int = setting(50_000, "Agent steps between checkpoints.")
    episodes: int = setting(20, "Episodes per evaluation.", minimum=1)
    video: bool = setting(True, "Record a video of the last stage.")
    track: str | None = setting(
        None,
        "Experiment tracker that receives the numbers of the TensorBoard log.",
        choices=("snn_rl.agents.tracking:TRACKERS",),
    )
    format: str = setting(
        "onnx", "export only: file format.", choices=("snn_rl.formats:FORMATS", CUSTOM)
    )
    output: str | None = setting(
        None, "Output file of export, evaluate, and play; null uses the stage's directory."
    )
    check_frames: int = setting(500, "export only: number of test observations.", minimum=1)
    chip: str | None = setting(
        None,
        "export only: chip whose limits the network must meet, otherwise no file is written.",
        choices=("snn_rl.formats.chips:CHIPS",),
    )
    overlay: bool = setting(False, "Short for play.overlay.")
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    dqn: DQNConfig = field(default_factory=DQNConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    state: StateConfig = field(default_factory=StateConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    iir: IIRConfig = field(default_factory=IIRConfig)
    carry: CarryConfig = field(default_factory=CarryConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    play: PlayConfig = field(default_factory=PlayConfig)
